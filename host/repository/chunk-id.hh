// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace stillpoint {

/// SHA-256 of a chunk's plaintext (a keyed HMAC when the repository is encrypted).
struct ChunkId {
  std::array<std::byte, 32> bytes{};

  auto operator<=>(const ChunkId&) const = default;
};

/// 64 lower-case hexadecimal digits.
[[nodiscard]] std::string to_hex(const ChunkId& id);
/// Throws Corruption.
[[nodiscard]] ChunkId parse_chunk_id(std::string_view text);

/// The all-zero id stands for content of zeros (a chunk, a subtree, a whole disk), which is not stored.
[[nodiscard]] bool is_zero_chunk(const ChunkId& id) noexcept;

/// Two lower-case hexadecimal digits for each byte.
[[nodiscard]] std::string bytes_to_hex(std::span<const std::byte> bytes);
/// False when the text is not exactly that.
[[nodiscard]] bool hex_to_bytes(std::string_view text, std::span<std::byte> bytes);

/// The id's first bytes spread evenly already.
struct ChunkIdHash {
  std::size_t operator()(const ChunkId& id) const noexcept {
    std::size_t hash = 0;
    std::memcpy(&hash, id.bytes.data(), sizeof hash);
    return hash;
  }
};

}  // namespace stillpoint
