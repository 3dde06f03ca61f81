// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/tree-entry.hh"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A file system found on a disk.
struct FileSystem {
  std::uint32_t number = 0;     ///< names it in the calls below
  std::uint32_t partition = 0;  ///< as the guest's kernel counts ("vda1" is 1); 0 for a disk without partitions
  std::string volume;           ///< "vg0/root", "md0", ...: what it lies on, where that is no partition of one disk
  std::uint64_t offset = 0;     ///< bytes from the start of the disk
  std::uint64_t length = 0;     ///< bytes
  std::string type;             ///< by its magic, in blkid's words: "ext4", "xfs", "LVM2_member", ...; may be empty
  std::string uuid;             ///< of ext2/3/4, xfs and btrfs, as is the label
  std::string label;
  bool clean = true;          ///< false: it was not frozen, and walk() replays its journal in memory
  bool in_appliance = false;  ///< an AskedReader has found it, and reads it whatever its type
  std::string obstacle;       ///< why it is not read, where its type does not say; empty when nothing hinders

  /// Whether an ApplianceReader reads what walk() does not.
  [[nodiscard]] bool is_for_appliance() const {
    return type == "xfs" || type == "btrfs" || type == "vfat" || type == "f2fs" || type == "iso9660" ||
           (readable() && !clean);
  }
  /// Whether what lies in it must be opened or assembled by an appliance, and is no file system by itself.
  [[nodiscard]] bool is_container() const {
    return type == "crypto_LUKS" || type == "linux_raid_member" || !obstacle.empty();
  }
  /// Whether walk() reads this type at all.
  [[nodiscard]] bool readable() const {
    return obstacle.empty() && (in_appliance || type == "ext2" || type == "ext3" || type == "ext4");
  }
};

/// Reads file systems of a disk in a sandboxed worker of its own: a guest's file system is hostile input, so this
/// process only ever receives validated entries. The worker reads blocks through this process, from whatever reader (a
/// live export, the repository).
class FileSystemReader {
 public:
  /// `disk` is used from the calling thread only, and outlives the reader.
  explicit FileSystemReader(BlockReader& disk);
  FileSystemReader(const FileSystemReader&) = delete;
  FileSystemReader& operator=(const FileSystemReader&) = delete;
  virtual ~FileSystemReader();

  /// Partition table and superblocks. Throws CaptureError.
  [[nodiscard]] virtual std::vector<FileSystem> file_systems();

  /// Yields `path` (relative, empty for the root) and everything below it (`recursive`) or one level (else, without "."
  /// and ".."). Symbolic links are not followed. In a directory the order is that of the inodes' numbers. Throws
  /// NotFound, CaptureError; what the sink throws passes through.
  virtual void walk(const FileSystem& file_system, std::string_view path, bool recursive, TreeSink& sink);

  /// The entry of `path` itself; nothing when there is none. Throws CaptureError.
  [[nodiscard]] std::optional<TreeEntry> look(const FileSystem& file_system, std::string_view path);

  /// What the entries' extents refer to.
  [[nodiscard]] virtual BlockReader& content() { return disk_; }

  /// What the walks so far left out (encrypted files), at most 100 lines.
  [[nodiscard]] const std::vector<std::string>& warnings() const { return warnings_; }

 protected:
  void warn(std::string_view text);

 private:
  class Worker;
  Worker& worker();

  BlockReader& disk_;
  std::unique_ptr<Worker> worker_;  ///< none before the first question, and after a failure
  std::vector<std::string> warnings_;
};

/// A piece of a regular file.
struct FileContent {
  std::uint64_t offset = 0;          ///< bytes from the start of the file
  std::uint64_t length = 0;          ///< bytes
  std::span<const std::byte> bytes;  ///< empty for a hole
};

/// Reads a regular file's content by its extents, in order, holes as such, cut at the file's size; at most 1 MiB of
/// bytes at a time. Extents outside the disk are Corruption.
void read_file(BlockReader& disk, const TreeEntry& file, const std::function<void(const FileContent&)>& consumer);

}  // namespace stillpoint
