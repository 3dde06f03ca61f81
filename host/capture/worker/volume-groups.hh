// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/worker/partitions.hh"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace stillpoint {

/// A range of the disk.
struct DiskPiece {
  std::uint64_t offset = 0;  ///< bytes
  std::uint64_t length = 0;  ///< bytes
};

/// A logical volume that a guest would see.
struct LogicalVolume {
  std::string name;      ///< "group/volume"
  std::string uuid;      ///< LVM's
  std::string obstacle;  ///< why it has no pieces: it is not linear, or a disk is missing; empty when it has
  std::vector<DiskPiece> pieces;
};

/// The volumes of all groups that the physical volumes in these ranges of the disk belong to, in the order of their
/// names. A physical volume whose metadata is damaged is as good as missing. Every piece lies in one of the ranges.
[[nodiscard]] std::vector<LogicalVolume> read_volume_groups(const DiskRange& disk, std::span<const DiskPiece> ranges);

}  // namespace stillpoint
