// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-id.hh"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

/// SHA-256 (FIPS 180-4) of two messages beside each other. A round needs the one before it, so that a processor with
/// instructions for SHA-256 waits most of the time; it does a second message's rounds meanwhile, nearly for nothing.
/// No library of Debian 12 does that for messages as long as a chunk.
namespace stillpoint::sha256 {

inline constexpr std::size_t block_bytes = 64;

/// What the blocks hashed so far have made: A, B, E, F and C, D, G, H in the order that the instructions want.
struct State {
  std::array<std::uint32_t, 4> abef;
  std::array<std::uint32_t, 4> cdgh;
};

/// Whether this processor has the instructions; nothing else here may be called without them.
[[nodiscard]] bool available() noexcept;

/// The state before the first block.
[[nodiscard]] State initial() noexcept;
/// The state after one more block.
[[nodiscard]] State after(const State& state, std::span<const std::byte, block_bytes> block) noexcept;

/// The hashes of two messages, which follow the `before` bytes (whole blocks) that made `state`.
[[nodiscard]] std::array<ChunkId, 2> finish(const State& state, std::size_t before, std::span<const std::byte> first,
                                            std::span<const std::byte> second) noexcept;

}  // namespace stillpoint::sha256
