// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"

#include <sys/types.h>

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// The path of one of our own programs that are no commands.
[[nodiscard]] std::string libexec_program(std::string_view name);

/// The agent's end of the watchdog, a process of its own that thaws every file system at the deadline, and every second
/// of the minute after it until it is disarmed, whoever has died by then.
///
///     agent -> watchdog   "A<milliseconds>\n" arm    "D\n" disarm      (end of file: the agent has died; an armed
///     watchdog keeps its deadline) watchdog -> agent   "a" armed   "d" disarmed   "F" it has fired
class Watchdog {
 public:
  /// Starts the process. `owner` is the same for every agent that takes an earlier one's place. Throws Error.
  explicit Watchdog(std::string owner);
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  /// Lets the process end; an armed one keeps its deadline.
  ~Watchdog();

  /// Whether the process still runs.
  [[nodiscard]] bool alive() noexcept;

  /// Opens the mount points and sets the timer; on return the deadline stands, and watchdogs of agents that have died,
  /// which may be armed for a minute yet, are ended. Throws Error when the process does not answer.
  void arm(std::chrono::milliseconds deadline);

  /// Returns whether it has fired since arm(). Never throws: a watchdog that does not answer counts as fired.
  [[nodiscard]] bool disarm() noexcept;

 private:
  [[nodiscard]] bool ask(const char* text, char answer, bool& fired) noexcept;

  pid_t pid_ = -1;
  UniqueFd socket_;
  std::vector<UniqueFd> earlier_;
  bool armed_ = false;
};

}  // namespace stillpoint
