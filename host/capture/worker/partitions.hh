// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace stillpoint {

/// Reads a range of a disk; false when it does not lie inside.
struct DiskRange {
  std::function<bool(std::span<std::byte> buffer, std::uint64_t offset)> read;
  std::uint64_t size = 0;  ///< bytes
};

struct Partition {
  std::uint32_t number = 0;  ///< as Linux counts; 0: the whole disk
  std::uint64_t offset = 0;  ///< bytes
  std::uint64_t length = 0;  ///< bytes
};

/// The partitions of an MBR (with logical ones) or a GPT (checksums verified, the copy at the disk's end used where the
/// first one is damaged), in the order of their numbers, cut at the disk's end. Empty when there is no such table.
[[nodiscard]] std::vector<Partition> read_partitions(const DiskRange& disk);

/// What lies in a range, by its magic numbers: "ext4", "xfs", "LVM2_member", ... (blkid's words).
struct Signature {
  std::string type;  ///< empty when it is unknown
  std::string uuid;
  std::string label;
  bool clean = true;  ///< false: its journal must be replayed first
};
[[nodiscard]] Signature read_signature(const DiskRange& disk, std::uint64_t offset, std::uint64_t length);

}  // namespace stillpoint
