// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/rate-limit.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

#include <chrono>
#include <thread>
#include <vector>

using namespace stillpoint;

TEST_CASE("all who share a limit together are no faster than it") {
  std::stop_source stop;
  RateLimit limit(10'000'000, stop.get_token());
  const auto begun = SteadyClock::now();
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&] {
        for (int j = 0; j < 10; ++j)
          limit.take(100'000);
      });
  }
  CHECK(SteadyClock::now() - begun >= std::chrono::milliseconds(400));
}

TEST_CASE("who waits is stopped at once, and time that nobody used is lost") {
  std::stop_source stop;
  RateLimit limit(1000, stop.get_token());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto begun = SteadyClock::now();
  limit.take(20);
  CHECK(SteadyClock::now() - begun >= std::chrono::milliseconds(20));
  std::jthread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    stop.request_stop();
  });
  CHECK_THROWS_AS(limit.take(1000 * 3600), Interrupted);
  CHECK_THROWS_AS(limit.take(1), Interrupted);
}
