// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stop_token>
#include <string_view>
#include <vector>

namespace stillpoint {

/// Where a restored disk is written: first pieces in ascending order, then holes. One thread at a time; ranges lie
/// inside the disk. Throws StorageError.
class DiskTarget {
 public:
  struct Piece {
    std::uint64_t offset = 0;
    std::span<const std::byte> bytes;
  };

  virtual ~DiskTarget() = default;
  /// Returns when the pieces' buffers are free again.
  virtual void write(std::span<const Piece> pieces) = 0;
  virtual void zero(std::uint64_t offset, std::uint64_t length) = 0;
  /// Makes all of it durable and, for a file, gives it its name. Without it nothing is left behind.
  virtual void complete() = 0;
};

/// Opens the target for a disk of `size` bytes: a block device as it is, anything else as a new file beside `path` that
/// gets the name on complete(). `format`: "raw" or "qcow2". Throws UsageError, StorageError.
[[nodiscard]] std::unique_ptr<DiskTarget> open_disk_target(const std::filesystem::path& path, std::string_view format,
                                                           std::uint64_t size, bool overwrite);

/// A logical volume that was made for the disk: nothing of what was there before it stays. Throws UsageError,
/// StorageError.
[[nodiscard]] std::unique_ptr<DiskTarget> open_new_volume(const std::filesystem::path& path, std::uint64_t size,
                                                          bool reads_as_zeros);

/// The disk of `size` bytes as a stream on a descriptor that stays the caller's, holes written out; pieces have to come
/// in ascending order. Synced on complete() where it can be; waiting for whoever reads a pipe ends when told
/// (Interrupted).
[[nodiscard]] std::unique_ptr<DiskTarget> stream_target(int fd, std::uint64_t size, std::stop_token stop);

}  // namespace stillpoint
