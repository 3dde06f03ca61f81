// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <csignal>

namespace stillpoint {

/// Blocks all signals in this thread for the scope: threads and children that start in it inherit that, so that the
/// program's signals reach the thread that waits for them.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() noexcept {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;
  ~AllSignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

}  // namespace stillpoint
