// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <array>
#include <compare>
#include <cstddef>
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

}  // namespace stillpoint
