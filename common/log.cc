// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/log.hh"

#include "common/file.hh"
#include "common/log-writer.hh"
#include "common/text.hh"

#include <glib.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace stillpoint {

namespace {

std::atomic<LogLevel> threshold = LogLevel::info;

constexpr std::size_t most_held = 1000;
std::mutex held_mutex;
bool holding = false;
std::vector<std::pair<LogLevel, std::string>> held;

/// Whether the line was kept for later.
bool keep(LogLevel level, std::string_view text) {
  const std::lock_guard lock(held_mutex);
  if (holding && held.size() < most_held) held.emplace_back(level, text);
  return holding;
}

GLogLevelFlags glib_level(LogLevel level) {
  switch (level) {
    case LogLevel::error:
      return G_LOG_LEVEL_CRITICAL;
    case LogLevel::warning:
      return G_LOG_LEVEL_WARNING;
    case LogLevel::info:
      return G_LOG_LEVEL_MESSAGE;
    case LogLevel::debug:
      return G_LOG_LEVEL_DEBUG;
  }
  return G_LOG_LEVEL_MESSAGE;
}

const char* prefix(LogLevel level) {
  switch (level) {
    case LogLevel::error:
      return "error: ";
    case LogLevel::warning:
      return "warning: ";
    default:
      return "";
  }
}

std::mutex writer_mutex;
std::function<void(std::string_view)> writer;

void write_line(LogLevel level, std::string_view text) {
  static const bool to_journal = g_log_writer_is_journald(STDERR_FILENO) != 0;
  if (to_journal) {
    const std::string message(text);
    const char* priority = level == LogLevel::error     ? "3"
                           : level == LogLevel::warning ? "4"
                           : level == LogLevel::info    ? "6"
                                                        : "7";
    const std::array<GLogField, 2> fields{{{"MESSAGE", message.c_str(), -1}, {"PRIORITY", priority, -1}}};
    g_log_writer_journald(glib_level(level), fields.data(), fields.size(), nullptr);
    return;
  }
  std::string line = prefix(level) + printable(text);
  {
    const std::lock_guard lock(writer_mutex);
    if (writer) return writer(line);
  }
  line += '\n';
  // A log that cannot be written has nowhere to be reported.
  static_cast<void>(!::write(STDERR_FILENO, line.data(), line.size()));
}

}  // namespace

void set_log_writer(std::function<void(std::string_view line)> new_writer) {
  const std::lock_guard lock(writer_mutex);
  writer = std::move(new_writer);
}

void set_log_level(LogLevel level) {
  threshold = level;
}

void log_line(LogLevel level, std::string_view text) {
  if (level > threshold.load() || keep(level, text)) return;
  write_line(level, text);
}

void hold_log(bool hold) {
  std::vector<std::pair<LogLevel, std::string>> lines;
  {
    const std::lock_guard lock(held_mutex);
    holding = hold;
    if (!hold) lines.swap(held);
  }
  for (const auto& [level, text] : lines)
    write_line(level, text);
}

}  // namespace stillpoint
