// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/rate-limit.hh"
#include "host/restore/disk-target.hh"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>

namespace stillpoint {

/// Writes a disk out of the repository into a new image: sparse, several requests in flight, complete and synced on
/// return. `format`: "raw" or "qcow2". An existing regular file is refused (UsageError) unless `overwrite`; a failed
/// restore leaves no file of its own behind. `limit`: of what is written, may be null. Throws StorageError, Corruption.
void restore_disk(BlockReader& disk, const std::filesystem::path& target, std::string_view format, bool overwrite,
                  CaptureProgress& progress, RateLimit* limit = nullptr);

/// Calls its argument with ranges of a disk, in ascending order.
using Ranges = std::function<void(const std::function<void(const Extent&)>&)>;
struct WrittenRanges {
  std::uint64_t data = 0;   ///< bytes
  std::uint64_t zeros = 0;  ///< bytes
};
/// These ranges of a disk and no others: data first, then what reads as zeros. `total`: bytes of data that there are,
/// as far as that is known. Without target.complete(), too.
[[nodiscard]] WrittenRanges write_ranges(BlockReader& disk, DiskTarget& target, const Ranges& ranges,
                                         std::uint64_t total, CaptureProgress& progress, RateLimit* limit);

/// All of it but the last step, target.complete(): for several disks that are to appear together.
WrittenRanges fill_target(BlockReader& disk, DiskTarget& target, CaptureProgress& progress, RateLimit* limit = nullptr);

/// The same, into a target that is open already.
void restore_disk(BlockReader& disk, DiskTarget& target, CaptureProgress& progress, RateLimit* limit = nullptr);

}  // namespace stillpoint
