// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/retention.hh"

#include "common/errors.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <string_view>

namespace stillpoint {

namespace {

using std::chrono::days;
using std::chrono::floor;
using std::chrono::sys_days;
using std::chrono::year_month_day;

long hour_of(WallTime time) {
  return floor<std::chrono::hours>(time).time_since_epoch().count();
}

long day_of(WallTime time) {
  return floor<days>(time).time_since_epoch().count();
}

/// The first of January 1970 was a Thursday.
long week_of(WallTime time) {
  constexpr long to_monday = 3;
  const long day = day_of(time) + to_monday;
  return day >= 0 ? day / 7 : (day - 6) / 7;
}

long month_of(WallTime time) {
  const year_month_day date(floor<days>(time));
  return static_cast<int>(date.year()) * 12L + static_cast<unsigned>(date.month());
}

long year_of(WallTime time) {
  return static_cast<int>(year_month_day(floor<days>(time)).year());
}

}  // namespace

void apply_retention(const RetentionPolicy& policy, std::span<RetainedStillPoint> still_points) {
  std::vector<RetainedStillPoint*> newest_first;
  for (RetainedStillPoint& still_point : still_points) {
    still_point.kept_by.clear();
    newest_first.push_back(&still_point);
  }
  std::ranges::sort(newest_first, [](const RetainedStillPoint* a, const RetainedStillPoint* b) {
    return std::pair(a->instant, a->name) > std::pair(b->instant, b->name);
  });
  for (std::size_t i = 0; i < std::min(policy.last, newest_first.size()); ++i)
    newest_first[i]->kept_by.emplace_back("last");
  struct Rule {
    const char* name;
    std::size_t count;
    long (*period)(WallTime);
  };
  const std::array rules{Rule{"hourly", policy.hourly, hour_of}, Rule{"daily", policy.daily, day_of},
                         Rule{"weekly", policy.weekly, week_of}, Rule{"monthly", policy.monthly, month_of},
                         Rule{"yearly", policy.yearly, year_of}};
  for (const Rule& rule : rules) {
    std::size_t left = rule.count;
    std::optional<long> last;
    for (RetainedStillPoint* still_point : newest_first) {
      const long period = rule.period(still_point->instant);
      if (left == 0 || last == period) continue;
      last = period;
      --left;
      still_point->kept_by.emplace_back(rule.name);
    }
  }
  for (RetainedStillPoint* still_point : newest_first) {
    if (policy.within && std::min(newest_first.front()->instant, wall_now()) - still_point->instant < *policy.within)
      still_point->kept_by.emplace_back("within");
    if (still_point->is_protected) still_point->kept_by.emplace_back("protected");
  }
}

std::chrono::seconds parse_age(std::string_view text) {
  const auto fail = [text] {
    throw UsageError(fmt::format("'{}' is no age", text), "say 12h, 7d, 2w, 6m, 1y or, say, 1y6m");
  };
  std::chrono::seconds age{0};
  if (text.empty()) fail();
  for (std::string_view rest = text; !rest.empty();) {
    unsigned count = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), count);
    constexpr unsigned most = 100000;
    if (error != std::errc() || end == rest.data() + rest.size() || count > most) fail();
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    switch (rest.front()) {
      case 'h':
        age += std::chrono::hours(count);
        break;
      case 'd':
        age += days(count);
        break;
      case 'w':
        age += days(7L * count);
        break;
      case 'm':
        age += days(30L * count);
        break;
      case 'y':
        age += days(365L * count);
        break;
      default:
        fail();
    }
    rest.remove_prefix(1);
  }
  if (age.count() == 0) fail();
  return age;
}

}  // namespace stillpoint
