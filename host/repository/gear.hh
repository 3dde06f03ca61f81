// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace stillpoint {

/// Cuts a stream where its content says so: the same content is cut at the same places wherever it stands, so that an
/// insertion changes the chunks around it only.
class GearChunker {
 public:
  static constexpr std::size_t min_bytes = 16 << 10;
  static constexpr std::size_t average_bytes = 64 << 10;
  static constexpr std::size_t max_bytes = 512 << 10;

  /// Feeds the next bytes. Returns how many of them belong to the current chunk; less than all, or `cut` set, means
  /// that the chunk ends there.
  struct Result {
    std::size_t taken;
    bool cut;
  };
  [[nodiscard]] Result feed(std::span<const std::byte> bytes) noexcept;

 private:
  std::size_t length_ = 0;  ///< of the current chunk so far
  std::uint64_t hash_ = 0;
};

/// A number that pieces which differ in little most likely share: the highest hash that 64 bytes in a row have. 0 for
/// less than 64 bytes.
[[nodiscard]] std::uint64_t sketch_of(std::span<const std::byte> bytes) noexcept;

}  // namespace stillpoint
