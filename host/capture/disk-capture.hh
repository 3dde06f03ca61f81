// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/nbd-disk.hh"
#include "host/capture/queued-reader.hh"

#include <cstdint>
#include <stop_token>

namespace stillpoint {

struct CaptureCounts {
  std::uint64_t read = 0;     ///< bytes read
  std::uint64_t changed = 0;  ///< bytes dirty (incremental) or allocated (full)
};

/// Reads a disk into the sink with a deep queue, straight into the sink's buffers: everything that is data, or
/// (`incremental`) every chunk that the dirty bitmap touches. Holes are submitted as zeros unread. Throws CaptureError,
/// what the sink throws, Interrupted when stopped; the disk is then of no further use.
[[nodiscard]] CaptureCounts capture_disk(QueuedReader& disk, bool incremental, ChunkSink& sink,
                                         CaptureProgress& progress, const std::stop_token& stop);

}  // namespace stillpoint
