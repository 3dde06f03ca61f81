// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/tree-entry.hh"

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// What of an object is not its content.
struct Metadata {
  std::string path;  ///< for messages
  std::uint32_t mode = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::int64_t mtime_ns = 0;
  std::vector<std::pair<std::string, std::string>> xattrs;

  explicit Metadata(const TreeEntry& entry)
      : path(entry.path),
        mode(entry.mode),
        uid(entry.uid),
        gid(entry.gid),
        mtime_ns(entry.mtime_ns),
        xattrs(entry.xattrs) {}
};

/// Sets metadata on what a tree consists of, and collects what the target refuses. One thread at a time.
class MetadataKeeper {
 public:
  MetadataKeeper();

  /// Of an open file or directory. Throws StorageError.
  void apply(int fd, const Metadata& metadata);
  /// Of what cannot be opened: a link, a device, a fifo. Throws StorageError.
  void apply(int directory, const std::string& name, const TreeEntry& entry);

  /// Whether `name` of an earlier tree is what the entry says, content taken for the same when size and time are.
  [[nodiscard]] bool is_same(int directory, const std::string& name, const TreeEntry& entry) const;

  void warn(std::string_view kind, std::string text);
  [[nodiscard]] std::vector<std::string> take_warnings() { return std::move(warnings_); }

 private:
  [[nodiscard]] std::uint32_t mode_to_set(std::uint32_t mode, bool owned) const noexcept;

  bool is_root_;
  std::vector<std::string> warnings_;
  std::vector<std::string> kinds_;  ///< warned of once
};

/// The S_IF... bits of a type.
[[nodiscard]] unsigned type_bits(EntryType type) noexcept;

}  // namespace stillpoint
