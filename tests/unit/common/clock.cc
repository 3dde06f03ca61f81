// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/clock.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

TEST_CASE("times are written and read") {
  const WallTime time = parse_time("2026-11-22T08:20:11.123456Z");
  CHECK(format_time(time) == "2026-11-22T08:20:11Z");
  CHECK(format_time_precise(time) == "2026-11-22T08:20:11.123456Z");
  CHECK(parse_time("2026-11-22T08:20:11Z") + std::chrono::microseconds(123456) == time);
  for (const char* bad : {"", "now", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-11-22T08:20:11",
                          "2026-11-22T24:00:00Z", "2026-11-22T08:20:11Zx"})
    CHECK_THROWS_AS(static_cast<void>(parse_time(bad)), UsageError);
}

TEST_CASE("a deadline is shared and never negative") {
  const Deadline past(std::chrono::milliseconds(-5));
  CHECK(past.passed());
  CHECK(past.left().count() == 0);
  CHECK(past.poll_timeout() == 0);
  const Deadline far(std::chrono::hours(3));
  CHECK(!far.passed());
  CHECK(far.poll_timeout(std::chrono::seconds(2)) == 2000);
  CHECK(far.at_most(std::chrono::milliseconds(-1)).passed());
}

TEST_CASE("ids are random and recognised") {
  const std::string id = random_id();
  CHECK(is_id(id));
  CHECK(id != random_id());
  CHECK(!is_id("../../../../../../etc/passwd00000"));
  CHECK(!is_id("ABCDEF00000000000000000000000000"));
}
