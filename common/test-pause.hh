// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <string_view>

namespace stillpoint {

/// Where the fault suite stops the flow, to let something die at exactly this state. STILLPOINT_TEST_PAUSE names a
/// directory: when there is a file in it that is called as the state, it is renamed to STATE.reached, once, and the
/// program goes on when that is gone, or after half a minute. Without the variable nothing is done.
void pause_for_test(std::string_view state) noexcept;

}  // namespace stillpoint
