// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/clock.hh"

#include "common/errors.hh"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>

namespace stillpoint {

namespace {

struct Civil {
  int year;
  unsigned month, day;
  std::int64_t hour, minute, second, microsecond;
};

Civil civil(WallTime time) {
  using namespace std::chrono;
  const auto day = floor<days>(time);
  const year_month_day date(day);
  const hh_mm_ss<microseconds> clock(time - day);
  return {static_cast<int>(date.year()),     static_cast<unsigned>(date.month()),
          static_cast<unsigned>(date.day()), clock.hours().count(),
          clock.minutes().count(),           clock.seconds().count(),
          clock.subseconds().count()};
}

}  // namespace

WallTime wall_now() {
  return std::chrono::time_point_cast<std::chrono::microseconds>(std::chrono::system_clock::now());
}

std::string format_time(WallTime time) {
  const Civil c = civil(time);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", c.year, c.month, c.day, c.hour, c.minute, c.second);
}

std::string format_time_precise(WallTime time) {
  const Civil c = civil(time);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z", c.year, c.month, c.day, c.hour, c.minute, c.second,
                     c.microsecond);
}

WallTime parse_time(std::string_view text) {
  using namespace std::chrono;
  const std::string copy(text);
  int y = 0;
  unsigned mo = 0, d = 0, h = 0, mi = 0, s = 0;
  int end = 0;
  std::int64_t fraction = 0;
  if (std::sscanf(copy.c_str(), "%4d-%2u-%2uT%2u:%2u:%2u%n", &y, &mo, &d, &h, &mi, &s, &end) == 6) {
    std::string_view rest = std::string_view(copy).substr(static_cast<std::size_t>(end));
    if (rest.starts_with('.')) {
      rest.remove_prefix(1);
      std::int64_t unit = 100000;
      while (!rest.empty() && rest.front() >= '0' && rest.front() <= '9') {
        fraction += (rest.front() - '0') * unit;
        unit /= 10;
        rest.remove_prefix(1);
      }
    }
    const year_month_day date{year(y), month(mo), day(d)};
    if (rest == "Z" && date.ok() && h < 24 && mi < 60 && s < 60)
      return sys_days(date) + hours(h) + minutes(mi) + seconds(s) + microseconds(fraction);
  }
  throw UsageError(fmt::format("'{}' is not a time", text), "times look like 2026-11-22T08:20:11Z");
}

std::chrono::milliseconds Deadline::left() const noexcept {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(at_ - SteadyClock::now());
  return std::max(left, std::chrono::milliseconds::zero());
}

int Deadline::poll_timeout(std::chrono::milliseconds most) const noexcept {
  return static_cast<int>(std::min(left(), most).count());
}

Deadline Deadline::at_most(std::chrono::milliseconds from_now) const noexcept {
  Deadline other(from_now);
  return other.at_ < at_ ? other : *this;
}

std::string random_id() {
  std::array<unsigned char, 16> bytes;
  // 16 bytes are never cut short by a signal (getrandom(2)).
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) throw_errno("getrandom");
  std::string id;
  for (const unsigned char byte : bytes)
    id += fmt::format("{:02x}", byte);
  return id;
}

bool is_id(std::string_view text) {
  return text.size() == 32 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace stillpoint
