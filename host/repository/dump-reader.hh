// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-store.hh"
#include "host/repository/manifest.hh"

#include <cstddef>
#include <functional>
#include <span>

namespace stillpoint {

/// Gives the stream to the consumer in order; several chunks are read at once. Throws Corruption.
void read_stream(ChunkStore& chunks, const StreamMap& map,
                 const std::function<void(std::span<const std::byte>)>& consumer);

}  // namespace stillpoint
