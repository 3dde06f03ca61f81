// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/restore/disk-target.hh"

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace stillpoint {

[[nodiscard]] bool is_all_zero(std::span<const std::byte> bytes);

/// As few pieces as possible: those that follow each other on the disk and in memory become one.
[[nodiscard]] std::vector<DiskTarget::Piece> joined(std::span<const DiskTarget::Piece> pieces);

/// Calls `consume` with the parts of `piece` that are not long runs of zeros: these are left out of a file, its holes.
/// Shorter ones would only fragment it.
template <typename F>
void without_zeros(const DiskTarget::Piece& piece, const F& consume) {
  constexpr std::size_t least_hole = 32768;
  constexpr std::size_t zero_step = 4096;
  const auto bytes = piece.bytes;
  std::size_t begin = 0;  // of the part not yet consumed
  std::size_t zeros = 0;  // length of the run of zeros that ends at `at`
  const auto flush = [&](std::size_t end) {
    if (begin < end) consume(DiskTarget::Piece{piece.offset + begin, bytes.subspan(begin, end - begin)});
  };
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t step = std::min(zero_step, bytes.size() - at);
    const bool zero = is_all_zero(bytes.subspan(at, step));
    if (!zero && zeros > 0) {
      if (zeros >= least_hole || at == zeros) {
        flush(at - zeros);
        begin = at;
      }
      zeros = 0;
    }
    at += step;
    if (zero) zeros += step;
  }
  flush(zeros >= least_hole || zeros == bytes.size() ? bytes.size() - zeros : bytes.size());
}

}  // namespace stillpoint
