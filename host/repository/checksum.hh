// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-id.hh"
#include "host/repository/cipher.hh"

#include <array>
#include <cstdint>
#include <memory>
#include <span>

namespace stillpoint {

/// CRC-32C (Castagnoli) as iSCSI defines it: initial value and final inversion included.
[[nodiscard]] std::uint32_t crc32c(std::span<const std::byte> bytes) noexcept;

/// Whether every byte is zero; true for none.
[[nodiscard]] bool is_zero(std::span<const std::byte> bytes) noexcept;

/// Names chunks: by SHA-256 or, with a key, by HMAC-SHA-256. One for each thread: it keeps a context so that a chunk
/// costs no allocation.
class ChunkHasher {
 public:
  ChunkHasher();
  explicit ChunkHasher(const Secret& key);
  ChunkHasher(ChunkHasher&&) noexcept;
  ChunkHasher& operator=(ChunkHasher&&) noexcept;
  ~ChunkHasher();

  [[nodiscard]] ChunkId operator()(std::span<const std::byte> bytes);
  /// Of two chunks: in little more time than of one where the processor has instructions for it.
  [[nodiscard]] std::array<ChunkId, 2> operator()(std::span<const std::byte> first, std::span<const std::byte> second);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace stillpoint
