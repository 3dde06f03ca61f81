// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"

#include <atomic>
#include <csignal>
#include <stop_token>
#include <string>
#include <thread>

namespace stillpoint {

/// Turns SIGINT, SIGTERM and SIGHUP into a stop request, so that a verb unwinds through its scopes: the guest is
/// thawed, the job ended. More signals change nothing: the undo is never skipped. Construct it in main() before any
/// other thread, because the signals must be blocked in all of them. Ignores SIGPIPE.
class Interrupt {
 public:
  Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  ~Interrupt();

  [[nodiscard]] std::stop_token token() const noexcept { return stop_.get_token(); }
  /// "SIGINT"; empty while none came.
  [[nodiscard]] std::string signal_name() const;

 private:
  void wait_for_signals();

  sigset_t signals_{};
  std::stop_source stop_;
  std::atomic<int> signal_ = 0;
  UniqueFd came_;   ///< readable when a signal came
  UniqueFd ended_;  ///< readable when the thread shall end
  std::jthread thread_;
};

}  // namespace stillpoint
