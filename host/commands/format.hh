// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/text.hh"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace stillpoint {

/// "999 B", "1.4 GB", "822 MB": decimal units, three digits at most.
[[nodiscard]] std::string format_size(std::uint64_t bytes);

/// "0.2 ms", "350 ms", "4.5 s", "2 min 5 s", "1 h 2 min".
[[nodiscard]] std::string format_duration(std::chrono::microseconds duration);

/// Bytes from "262144", "256K", "256KiB", "4M", "1G": binary units, as chunk sizes are. Throws UsageError.
[[nodiscard]] std::uint64_t parse_size(std::string_view text);

/// "none" or a level of zstd, as Repository::set_compression() takes it. Throws UsageError.
[[nodiscard]] int parse_compression(std::string_view text);

/// A duration from "500ms", "2s", "1min". Throws UsageError.
[[nodiscard]] std::chrono::milliseconds parse_duration(std::string_view text);

/// Columns that printable() text takes: code points, which is right for what names are made of.
[[nodiscard]] std::size_t display_width(std::string_view text);

/// The first `columns` columns of printable() text, never a part of a code point.
[[nodiscard]] std::string_view cut_to_width(std::string_view text, std::size_t columns);

}  // namespace stillpoint
