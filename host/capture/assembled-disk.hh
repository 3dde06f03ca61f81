// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace stillpoint {

/// A range of a disk.
struct DiskPart {
  BlockReader* disk = nullptr;
  std::uint64_t offset = 0;  ///< bytes
  std::uint64_t length = 0;  ///< bytes, not 0; the range lies inside the disk
};

/// Ranges of disks, read as one disk: a logical volume, or several disks one after the other.
class AssembledDisk : public BlockReader {
 public:
  /// The disks outlive it. Together the parts are at most INT64_MAX long.
  explicit AssembledDisk(std::vector<DiskPart> parts);

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override;
  void pread_many(std::span<const Request> requests) override;
  [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) override;

  /// Where a range lies, part by part.
  [[nodiscard]] std::vector<DiskPart> parts_of(std::uint64_t offset, std::uint64_t length) const;

 private:
  [[nodiscard]] std::size_t part_at(std::uint64_t offset) const;

  std::vector<DiskPart> parts_;
  std::vector<std::uint64_t> begins_;
  std::uint64_t size_ = 0;
};

}  // namespace stillpoint
