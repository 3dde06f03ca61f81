// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/rate-limit.hh"

#include "common/errors.hh"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <utility>

namespace stillpoint {

RateLimit::RateLimit(std::uint64_t bytes_per_second, std::stop_token stop)
    : rate_(bytes_per_second), stop_(std::move(stop)) {}

void RateLimit::take(std::uint64_t bytes) {
  std::unique_lock lock(mutex_);
  const std::chrono::duration<double> takes(static_cast<double>(bytes) / static_cast<double>(rate_));
  free_at_ = std::max(free_at_, SteadyClock::now()) + std::chrono::duration_cast<SteadyClock::duration>(takes);
  std::condition_variable_any never;
  never.wait_until(lock, stop_, SteadyClock::time_point(free_at_), [] { return false; });
  if (stop_.stop_requested()) throw Interrupted("stopped while it waited for its share of the bandwidth");
}

}  // namespace stillpoint
