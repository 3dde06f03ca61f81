// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "host/repository/chunk-store.hh"
#include "host/repository/manifest.hh"

#include <functional>

namespace stillpoint {

/// Calls `consume` with the ranges of `to` that may hold others bytes than `from` has there, in ascending order; no
/// data where `to` has zeros. Costs what differs, not what there is. What `from` does not reach counts as zeros. Throws
/// Corruption.
void compare_disks(ChunkStore& chunks, const DiskMap& from, const DiskMap& to,
                   const std::function<void(const Extent&)>& consume);

/// Reads a copy of a disk, as long as that, and calls `consume` with the chunks in which it is another one, in
/// ascending order; no data where the disk has zeros. A chunk is known by its id: only patched ones are read here, too.
/// Throws Corruption, and what reading the copy throws.
void check_disk_copy(ChunkStore& chunks, const DiskMap& map, BlockReader& copy, CaptureProgress& progress,
                     const std::function<void(const Extent&)>& consume);

}  // namespace stillpoint
