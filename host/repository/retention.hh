// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace stillpoint {

/// Which still points of a domain to keep. A rule with a count keeps the newest still point of each of the newest so
/// many periods that have one; periods are those of UTC. A still point is kept when any rule wants it.
struct RetentionPolicy {
  std::size_t last = 0;
  std::size_t hourly = 0;
  std::size_t daily = 0;
  std::size_t weekly = 0;  ///< ISO weeks, from Monday on
  std::size_t monthly = 0;
  std::size_t yearly = 0;
  /// Younger than this, counted from the domain's newest, or from now when that one is of the future.
  std::optional<std::chrono::seconds> within;

  [[nodiscard]] bool empty() const noexcept {
    return last + hourly + daily + weekly + monthly + yearly == 0 && !within;
  }
};

struct RetainedStillPoint {
  std::string name;
  WallTime instant{};
  bool is_protected = false;
  std::vector<std::string> kept_by;  ///< "last", "daily", "protected", ...; empty: it goes
};

/// Fills `kept_by`. `still_points`: all of one domain, in any order.
void apply_retention(const RetentionPolicy& policy, std::span<RetainedStillPoint> still_points);

/// "7d", "12h", "2w", "6m" (30 days each), "1y" (365 days), or several of them, "1y6m". Throws UsageError.
[[nodiscard]] std::chrono::seconds parse_age(std::string_view text);

}  // namespace stillpoint
