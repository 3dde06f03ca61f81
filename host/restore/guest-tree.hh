// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/tree-entry.hh"
#include "host/repository/shared-cache.hh"
#include "host/restore/guest-disk.hh"
#include "host/restore/mount-node.hh"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// What a file has beside its attributes.
struct FileDetails {
  std::string target;
  std::string inline_content;
  MountNode::Xattrs xattrs;
  std::vector<TreeEntry::FileExtent> extents;

  [[nodiscard]] std::size_t bytes() const noexcept;  ///< of memory, about
};

/// A directory of a guest as it was read.
struct DirectoryListing {
  struct Entry {
    std::string name;
    std::uint64_t number;  ///< its inode's
    NodeAttributes attributes;
    std::shared_ptr<const FileDetails> details;  ///< null where they are too large to be kept with so many others
  };
  std::vector<Entry> entries;          ///< in the order they came
  std::vector<std::uint32_t> by_name;  ///< places in `entries`
  std::string failure;                 ///< why there may be more; empty when these are all
  std::chrono::steady_clock::time_point made;

  [[nodiscard]] const Entry* find(std::string_view name) const;
  [[nodiscard]] std::size_t bytes() const noexcept;  ///< of memory, about
};

/// Names an inode in all that is mounted.
struct InodeKey {
  std::uint64_t file_system;
  std::uint64_t number;
  bool operator==(const InodeKey&) const = default;
};
struct InodeKeyHash {
  std::size_t operator()(const InodeKey& key) const noexcept {
    return std::hash<std::uint64_t>()(key.file_system * 0x9e3779b97f4a7c15U ^ key.number);
  }
};

/// What was read of guests' file systems lately: bounded, whatever they hold.
struct GuestTreeCache {
  SharedCache<InodeKey, const DirectoryListing, InodeKeyHash> listings{std::size_t{256} << 20};
  SharedCache<InodeKey, const FileDetails, InodeKeyHash> details{std::size_t{64} << 20};
};

/// One file system of a guest. What it throws says of which file system.
class BrowsedFileSystem {
 public:
  using OpenDisk = std::function<std::shared_ptr<GuestDisk>()>;
  /// `label`: for messages; `place`: its number on the disk. The cache outlives it.
  BrowsedFileSystem(std::string label, std::uint64_t first_inode, OpenDisk disk, std::size_t place,
                    GuestTreeCache& cache);

  [[nodiscard]] std::shared_ptr<const DirectoryListing> list(std::uint64_t number, const std::string& path);
  [[nodiscard]] std::optional<DirectoryListing::Entry> look(const std::string& path);
  /// `parent`: of the directory that it lies in, whose listing may be at hand.
  [[nodiscard]] std::shared_ptr<const FileDetails> details(std::uint64_t number, std::uint64_t parent,
                                                           std::string_view name,
                                                           const std::function<std::string()>& path);
  /// Of its disk, at a place that an extent names.
  void read(std::span<std::byte> buffer, std::uint64_t disk_offset, const std::function<std::string()>& path);

 private:
  [[nodiscard]] std::shared_ptr<DirectoryListing> read_listing(const std::string& path);

  std::string label_;
  std::uint64_t first_inode_;
  OpenDisk disk_;
  std::size_t place_;
  GuestTreeCache& cache_;
  std::uint64_t id_ = new_node_number();
};

/// File systems as a guest had them mounted in each other. Complete before anything of it is shown.
class GuestTree {
 public:
  explicit GuestTree(std::int64_t mtime_ns);
  GuestTree(const GuestTree&) = delete;
  GuestTree& operator=(const GuestTree&) = delete;
  ~GuestTree();

  /// `path`: "/var"; "/" for the root. False when that is none, or something is there already. The file system outlives
  /// the tree.
  bool mount(std::string_view path, BrowsedFileSystem& file_system);
  /// The directories that lead to what is mounted, for where no file system has them. After the last mount().
  void finish();
  /// Its nodes live no longer than the tree does.
  [[nodiscard]] MountNode::Shared root();

 private:
  friend class GuestNode;
  struct View;

  [[nodiscard]] View* mounted_at(const std::string& path) const;
  [[nodiscard]] MountNode::Shared leading(const std::string& path) const;
  [[nodiscard]] const std::vector<std::string>& names_in(const std::string& path) const;

  std::int64_t mtime_ns_;
  // By paths: "" is the root, "/var" what lies in it.
  std::map<std::string, std::unique_ptr<View>> views_;
  std::map<std::string, std::vector<std::string>> names_;
  std::map<std::string, std::shared_ptr<OwnDirectory>> leading_;
};

}  // namespace stillpoint
