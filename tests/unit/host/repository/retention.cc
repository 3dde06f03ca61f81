// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/retention.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>

using namespace stillpoint;
using namespace std::chrono_literals;

namespace {

std::vector<RetainedStillPoint> at(const std::vector<std::string>& times) {
  std::vector<RetainedStillPoint> still_points;
  for (const std::string& time : times)
    still_points.push_back({"web1@" + time, parse_time(time), false, {}});
  return still_points;
}

/// The times that stay, oldest first.
std::vector<std::string> kept(const RetentionPolicy& policy, std::vector<RetainedStillPoint> still_points) {
  apply_retention(policy, still_points);
  std::vector<std::string> times;
  for (const RetainedStillPoint& still_point : still_points)
    if (!still_point.kept_by.empty()) times.push_back(still_point.name.substr(5));
  std::ranges::sort(times);
  return times;
}

using Times = std::vector<std::string>;

}  // namespace

TEST_CASE("each rule keeps the newest of each of its periods") {
  const Times all{"2025-12-28T23:00:00Z", "2025-12-31T08:00:00Z", "2026-01-01T01:00:00Z", "2026-01-04T23:59:59Z",
                  "2026-01-05T00:00:00Z", "2026-02-01T10:00:00Z", "2026-02-01T10:30:00Z", "2026-02-01T11:00:00Z"};
  RetentionPolicy policy;
  CHECK(policy.empty());
  CHECK(kept(policy, at(all)).empty());
  SUBCASE("last") {
    policy.last = 2;
    CHECK(kept(policy, at(all)) == Times{"2026-02-01T10:30:00Z", "2026-02-01T11:00:00Z"});
    policy.last = 100;
    CHECK(kept(policy, at(all)) == all);
  }
  SUBCASE("hourly") {
    policy.hourly = 3;
    CHECK(kept(policy, at(all)) == Times{"2026-01-05T00:00:00Z", "2026-02-01T10:30:00Z", "2026-02-01T11:00:00Z"});
  }
  SUBCASE("daily") {
    policy.daily = 2;
    CHECK(kept(policy, at(all)) == Times{"2026-01-05T00:00:00Z", "2026-02-01T11:00:00Z"});
  }
  SUBCASE("weekly, over the turn of the year") {
    policy.weekly = 4;
    CHECK(kept(policy, at(all)) ==
          Times{"2025-12-28T23:00:00Z", "2026-01-04T23:59:59Z", "2026-01-05T00:00:00Z", "2026-02-01T11:00:00Z"});
  }
  SUBCASE("monthly and yearly") {
    policy.monthly = 2;
    policy.yearly = 2;
    CHECK(kept(policy, at(all)) == Times{"2025-12-31T08:00:00Z", "2026-01-05T00:00:00Z", "2026-02-01T11:00:00Z"});
  }
  SUBCASE("within, counted from the newest") {
    policy.within = parse_age("27d10h");
    CHECK(kept(policy, at(all)) == Times{"2026-02-01T10:00:00Z", "2026-02-01T10:30:00Z", "2026-02-01T11:00:00Z"});
    policy.within = parse_age("27d12h");
    CHECK(kept(policy, at(all)).size() == 5);
  }
  SUBCASE("protected") {
    policy.last = 1;
    std::vector<RetainedStillPoint> still_points = at(all);
    still_points[0].is_protected = true;
    CHECK(kept(policy, still_points) == Times{all.front(), all.back()});
  }
}

TEST_CASE("ages are read, or refused") {
  CHECK(parse_age("12h") == 12h);
  CHECK(parse_age("1y6m") == std::chrono::days(365 + 180));
  CHECK(parse_age("2w") == std::chrono::days(14));
  for (const char* wrong : {"", "d", "7", "7x", "-1d", "1d ", "999999999999d"})
    CHECK_THROWS_AS(static_cast<void>(parse_age(wrong)), UsageError);
}
