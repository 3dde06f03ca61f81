// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <string>
#include <string_view>

namespace stillpoint {

/// `text` as it may be shown on a terminal: control characters and bytes that are no UTF-8 as \xNN. Names, reasons and
/// warnings come from guests, and an escape sequence in one must not reach the operator's terminal.
[[nodiscard]] std::string printable(std::string_view text);

}  // namespace stillpoint
