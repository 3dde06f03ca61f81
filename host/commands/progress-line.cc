// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/progress-line.hh"

#include "host/commands/format.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

namespace {

constexpr std::size_t bar_width = 20;
/// Before that a rate says nothing.
constexpr std::chrono::milliseconds rate_known_after{500};

}  // namespace

std::string progress_text(const LineState& line, std::size_t name_width, std::size_t columns) {
  const std::size_t width = display_width(line.name);
  std::string text = line.name + std::string(name_width > width ? name_width - width : 0, ' ');
  const bool total_known = line.total > 0 && line.done < line.total && !line.ended;
  if (total_known) {
    const double part = static_cast<double>(line.done) / static_cast<double>(line.total);
    const auto filled = static_cast<std::size_t>(part * bar_width);
    text += fmt::format("  [{}{}] {:3}%  {} of {}", std::string(filled, '#'), std::string(bar_width - filled, '-'),
                        static_cast<int>(part * 100), format_size(line.done), format_size(line.total));
  } else {
    text += fmt::format("  {}", format_size(line.done));
  }
  if (line.ended) {
    text += fmt::format(" in {}", format_duration(line.elapsed));
  } else if (line.elapsed >= rate_known_after && line.done > 0) {
    const double rate = static_cast<double>(line.done) * 1e6 / static_cast<double>(line.elapsed.count());
    text += fmt::format("  {}/s", format_size(static_cast<std::uint64_t>(rate)));
    if (total_known) {
      const double seconds = static_cast<double>(line.total - line.done) / rate;
      // A day is as good as never: a disk that has stalled.
      if (seconds < 86400)
        text += fmt::format("  {} left", format_duration(std::chrono::seconds(static_cast<std::int64_t>(seconds) + 1)));
    }
  }
  return std::string(cut_to_width(text, columns));
}

}  // namespace stillpoint
