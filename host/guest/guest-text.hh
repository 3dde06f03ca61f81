// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <string>
#include <string_view>

namespace stillpoint {

/// Text from a guest as it may be shown on a terminal: control characters replaced, at most 1000 bytes.
[[nodiscard]] std::string shown(std::string_view text);

}  // namespace stillpoint
