// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace stillpoint {

/// What one line of the progress shows.
struct LineState {
  std::string name;        ///< printable
  std::uint64_t done = 0;  ///< bytes
  std::uint64_t total = 0;
  std::chrono::microseconds elapsed{0};
  bool ended = false;
};

/// "vda    [######------]  50%  1.4 GB of 2.8 GB  820 MB/s  1.7 s left", the name padded to `name_width`, cut to
/// `columns`.
[[nodiscard]] std::string progress_text(const LineState& line, std::size_t name_width, std::size_t columns);

}  // namespace stillpoint
