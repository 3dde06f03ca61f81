// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace stillpoint {

enum class LogLevel { error, warning, info, debug };

/// Writes one line to the journal under systemd, else to stderr.
void log_line(LogLevel level, std::string_view text);

/// While held, lines stay in memory (the first 1000) and the call that lets go writes them: file systems may be frozen,
/// and whoever writes to them waits for the thaw. From any thread.
void hold_log(bool hold);

/// Lines below this level are dropped; info at start.
void set_log_level(LogLevel level);

template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace stillpoint
