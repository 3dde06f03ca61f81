// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-store.hh"
#include "host/repository/manifest.hh"
#include "host/repository/map-node.hh"

#include <cstddef>
#include <functional>
#include <span>

namespace stillpoint {

/// Gives the stream to the consumer in order; several chunks are read at once. Throws Corruption.
void read_stream(ChunkStore& chunks, const StreamMap& map,
                 const std::function<void(std::span<const std::byte>)>& consumer);

/// Fills `bytes`, as long as the piece. False when all that it is made of is there, and makes something else. Throws
/// Corruption.
[[nodiscard]] bool read_patched_piece(ChunkStore& chunks, const StreamPiece& piece, std::span<std::byte> bytes);

}  // namespace stillpoint
