// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace stillpoint {

using SteadyClock = std::chrono::steady_clock;
using WallTime = std::chrono::sys_time<std::chrono::microseconds>;

[[nodiscard]] WallTime wall_now();

/// "2026-11-22T08:20:11Z": the form in names of still points.
[[nodiscard]] std::string format_time(WallTime time);

/// "2026-11-22T08:20:11.123456Z": the form in reports and manifests.
[[nodiscard]] std::string format_time_precise(WallTime time);

/// Reads both forms. Throws UsageError.
[[nodiscard]] WallTime parse_time(std::string_view text);

/// A moment by which something must have happened; copied down a call chain so that the parts share one limit.
class Deadline {
 public:
  explicit Deadline(std::chrono::milliseconds from_now) : at_(SteadyClock::now() + from_now) {}

  [[nodiscard]] SteadyClock::time_point at() const noexcept { return at_; }
  [[nodiscard]] bool passed() const noexcept { return SteadyClock::now() >= at_; }
  /// Zero when it has passed.
  [[nodiscard]] std::chrono::milliseconds left() const noexcept;
  /// left() for poll(2): never negative, rounded up, at most `most`.
  [[nodiscard]] int poll_timeout(std::chrono::milliseconds most = std::chrono::hours(1)) const noexcept;
  /// The earlier of this one and `from_now`.
  [[nodiscard]] Deadline at_most(std::chrono::milliseconds from_now) const noexcept;

 private:
  SteadyClock::time_point at_;
};

/// 32 lower-case hexadecimal digits from the kernel's random source: ids of still points, nonces, file names.
[[nodiscard]] std::string random_id();

/// Whether `text` is such an id.
[[nodiscard]] bool is_id(std::string_view text);

}  // namespace stillpoint
