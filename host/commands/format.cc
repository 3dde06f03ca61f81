// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/format.hh"

#include "common/errors.hh"
#include "host/repository/compression.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

namespace stillpoint {

std::string format_size(std::uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  static constexpr std::array units{"kB", "MB", "GB", "TB", "PB", "EB"};
  double value = static_cast<double>(bytes) / 1000;
  std::size_t unit = 0;
  // 999.5 would be shown as "1000".
  while (value >= 999.5 && unit + 1 < units.size()) {
    value /= 1000;
    ++unit;
  }
  return value < 99.95 ? fmt::format("{:.1f} {}", value, units[unit]) : fmt::format("{:.0f} {}", value, units[unit]);
}

std::string format_duration(std::chrono::microseconds duration) {
  const std::int64_t us = std::max<std::int64_t>(duration.count(), 0);
  if (us < 9950) return fmt::format("{:.1f} ms", static_cast<double>(us) / 1000);
  if (us < 999500) return fmt::format("{} ms", (us + 500) / 1000);
  if (us < 59950000) return fmt::format("{:.1f} s", static_cast<double>(us) / 1e6);
  const std::int64_t s = (us + 500000) / 1000000;
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
}

std::uint64_t parse_size(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc()) {
    const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
    const auto in = [&](unsigned shift) {
      if (value > std::numeric_limits<std::uint64_t>::max() >> shift)
        throw UsageError(fmt::format("'{}' is too large", printable(text)));
      return value << shift;
    };
    if (unit.empty() || unit == "B") return value;
    if (unit == "K" || unit == "KiB") return in(10);
    if (unit == "M" || unit == "MiB") return in(20);
    if (unit == "G" || unit == "GiB") return in(30);
  }
  throw UsageError(fmt::format("'{}' is not a size", printable(text)), "sizes look like 262144, 256K or 4M");
}

int parse_compression(std::string_view text) {
  if (text == "none") return 0;
  int level = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), level);
  if (error == std::errc() && end == text.data() + text.size() && level >= 1 && level <= max_compression) return level;
  throw UsageError(fmt::format("'{}' is no compression", printable(text)),
                   fmt::format("say none, or a level of zstd from 1 to {}", max_compression));
}

std::chrono::milliseconds parse_duration(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc()) {
    const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
    if (unit == "ms") return std::chrono::milliseconds(value);
    if (unit == "s") return std::chrono::seconds(value);
    if (unit == "min") return std::chrono::minutes(value);
  }
  throw UsageError(fmt::format("'{}' is not a duration", printable(text)), "durations look like 500ms, 2s or 1min");
}

std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

std::string_view cut_to_width(std::string_view text, std::size_t columns) {
  std::size_t end = 0;
  while (end < text.size()) {
    const bool starts = (static_cast<unsigned char>(text[end]) & 0xC0U) != 0x80U;
    if (starts && columns-- == 0) break;
    ++end;
  }
  return text.substr(0, end);
}

}  // namespace stillpoint
