// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/file.hh"
#include "common/tree-entry.hh"
#include "host/capture/tree-metadata.hh"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace stillpoint {

/// Fills the files of a tree: small ones are gathered and read together, in the order of the disk. One thread.
class ContentQueue {
 public:
  /// `asked`: bytes of all extents so far, of every queue of the tree.
  ContentQueue(BlockReader& disk, MetadataKeeper& keeper, std::atomic<std::uint64_t>& asked)
      : disk_(disk), keeper_(keeper), asked_(asked) {}

  /// Writes the content of `entry` to the new file `file` and sets its metadata, now or later. Throws StorageError,
  /// Corruption, what reading the disk throws.
  void add(UniqueFd file, const TreeEntry& entry);
  void flush();

  [[nodiscard]] std::uint64_t bytes_written() const noexcept { return bytes_written_; }

 private:
  struct File {
    UniqueFd fd;
    Metadata metadata;
  };
  struct Piece {
    std::uint64_t disk_offset;
    std::uint64_t file_offset;
    std::size_t length;
    std::size_t file;
    std::size_t at = 0;  ///< in storage_
  };
  void add_piece(std::uint64_t disk_offset, std::uint64_t file_offset, std::size_t length, std::size_t file);
  void read_pieces();
  void write_pieces();

  BlockReader& disk_;
  MetadataKeeper& keeper_;
  std::vector<File> files_;
  std::vector<Piece> pieces_;
  std::size_t piece_bytes_ = 0;
  std::vector<std::byte> storage_;
  std::uint64_t bytes_written_ = 0;
  std::atomic<std::uint64_t>& asked_;
};

}  // namespace stillpoint
