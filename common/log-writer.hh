// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <functional>
#include <string_view>

namespace stillpoint {

/// Gives the log's lines (without newline) to `writer` instead of stderr: for a program that draws on its terminal. An
/// empty function ends that; once this returns, the one before is not running and never called again. It must not log.
void set_log_writer(std::function<void(std::string_view line)> writer);

}  // namespace stillpoint
