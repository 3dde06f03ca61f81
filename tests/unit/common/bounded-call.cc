// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/bounded-call.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

#include <string>
#include <thread>

using namespace stillpoint;
using namespace std::chrono_literals;

TEST_CASE("a call gives its result, its exception, or nothing when it does not end") {
  CHECK(bounded_call(Deadline(20s), [] { return std::string("done"); }) == "done");
  CHECK_THROWS_AS(static_cast<void>(bounded_call(Deadline(20s), []() -> int { throw Locked("x"); })), Locked);
  auto release = std::make_shared<std::promise<void>>();
  CHECK_FALSE(bounded_call(Deadline(50ms), [release] {
    release->get_future().wait();
    return 1;
  }));
  release->set_value();
}
