// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/deleter.hh"

#include <zstd.h>

#include <cstddef>
#include <span>
#include <vector>

namespace stillpoint {

/// A patch says what to make of some bytes to get others: a zstd frame that has the first as its prefix. The two are at
/// most 2 MiB together.

/// One for each thread.
class PatchMaker {
 public:
  /// What makes `wanted` of `base`, in at most `limit` bytes; empty when it takes more.
  [[nodiscard]] std::vector<std::byte> make(std::span<const std::byte> base, std::span<const std::byte> wanted,
                                            std::size_t limit);

 private:
  CPtr<ZSTD_CCtx, ZSTD_freeCCtx> compressor_{ZSTD_createCCtx()};
  std::vector<std::byte> made_;
};

/// One for each thread.
class PatchReader {
 public:
  /// Fills `wanted`. False when the patch is damaged, or makes something of another length.
  [[nodiscard]] bool apply(std::span<const std::byte> base, std::span<const std::byte> patch,
                           std::span<std::byte> wanted);

 private:
  CPtr<ZSTD_DCtx, ZSTD_freeDCtx> decompressor_{ZSTD_createDCtx()};
};

}  // namespace stillpoint
