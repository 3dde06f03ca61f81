// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace stillpoint {

/// The little-endian number of `count` bytes at `offset`, which lie inside `bytes`.
[[nodiscard]] inline std::uint64_t number_at(std::span<const std::byte> bytes, std::size_t offset, std::size_t count) {
  std::uint64_t value = 0;
  for (std::size_t i = count; i-- > 0;)
    value = value << 8 | static_cast<std::uint8_t>(bytes[offset + i]);
  return value;
}

/// CRC-32 (polynomial 0x04c11db7, reflected) without the inversions at its begin and end, which not everybody makes.
[[nodiscard]] inline std::uint32_t plain_crc32(std::uint32_t crc, std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) {
    crc ^= static_cast<std::uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit)
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320U : 0U);
  }
  return crc;
}

}  // namespace stillpoint
