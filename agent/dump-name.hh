// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <string>
#include <string_view>

namespace stillpoint {

/// A database's name as the last part of its dump's name. Never begins with '@': those parts are the engines' own, as
/// "@globals".
[[nodiscard]] std::string dump_part(std::string_view database);

}  // namespace stillpoint
