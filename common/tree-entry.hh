// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace stillpoint {

enum class EntryType : std::uint8_t { file, directory, symlink, fifo, socket, character_device, block_device };

/// One object of a file system, as a file system reader yields it. Names and targets are raw bytes.
struct TreeEntry {
  std::string path;  ///< relative to the file system's root, without leading slash; empty for the root itself
  EntryType type = EntryType::file;
  std::uint32_t mode = 0;  ///< permission bits (07777)
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::int64_t mtime_ns = 0;  ///< nanoseconds since the epoch
  std::uint64_t size = 0;     ///< bytes; files only
  std::uint64_t inode = 0;    ///< identifies the hard-link group together with `links`
  std::uint32_t links = 1;
  std::uint32_t device_major = 0;
  std::uint32_t device_minor = 0;
  std::string target;          ///< symlinks only
  std::string inline_content;  ///< files whose content is stored in the inode; then `extents` is empty
  std::vector<std::pair<std::string, std::string>> xattrs;  ///< raw name with its prefix ("user.a"), raw value

  /// Where the content lies.
  struct FileExtent {
    std::uint64_t file_offset;  ///< bytes from the start of the file; ascending and disjoint; gaps are holes
    std::uint64_t disk_offset;  ///< bytes from the start of the disk
    std::uint64_t length;       ///< bytes; the last one may reach past `size` to the end of a block
  };
  std::vector<FileExtent> extents;
};

/// Receives a walk: parents before their children, every path once.
class TreeSink {
 public:
  virtual ~TreeSink() = default;
  virtual void entry(const TreeEntry& entry) = 0;
};

}  // namespace stillpoint
