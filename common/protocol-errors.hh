// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <string_view>

/// Messages of `error` that the other side does not only show, but understands.
namespace stillpoint::protocol {

/// The agent's words to whoever asks for something without a hello: it was started since he said his.
inline constexpr std::string_view not_greeted = "no hello was said on this connection";

}  // namespace stillpoint::protocol
