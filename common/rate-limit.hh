// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"

#include <cstdint>
#include <mutex>
#include <stop_token>

namespace stillpoint {

/// So many bytes in a second at most, for all who share it together; may be used by several threads.
class RateLimit {
 public:
  /// `bytes_per_second`: more than 0.
  RateLimit(std::uint64_t bytes_per_second, std::stop_token stop);

  /// Waits until `bytes` more may pass. Throws Interrupted when told to stop meanwhile.
  void take(std::uint64_t bytes);

 private:
  std::uint64_t rate_;
  std::stop_token stop_;
  std::mutex mutex_;
  SteadyClock::time_point free_at_;  ///< when everything that was taken has passed
};

}  // namespace stillpoint
