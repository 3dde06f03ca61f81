// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/tree-entry.hh"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

struct TreeCounts {
  std::uint64_t entries = 0;
  std::uint64_t bytes = 0;          ///< of regular files, apparent
  std::uint64_t files_written = 0;  ///< whose content was written; the others were linked
  std::uint64_t bytes_written = 0;
  std::vector<std::string> warnings;  ///< what could not be kept (an xattr that the target refuses), bounded
};

/// Writes a plain tree as `rsync -aHAX --link-dest` would: an unchanged file (type, size, ns mtime, mode, owner,
/// xattrs) is a hard link to the previous tree's. Never follows a symbolic link and never leaves the target directory,
/// whatever the entries say.
class TreeWriter : public TreeSink {
 public:
  /// Writes below `target` (made, must not exist); `previous` is an earlier tree of the same file system. Contents are
  /// read from `disk`.
  TreeWriter(const std::filesystem::path& target, const std::optional<std::filesystem::path>& previous,
             BlockReader& disk);
  TreeWriter(const TreeWriter&) = delete;
  TreeWriter& operator=(const TreeWriter&) = delete;
  ~TreeWriter() override;

  void entry(const TreeEntry& entry) override;

  /// Sets what must be set last (directories' times). Throws StorageError.
  [[nodiscard]] TreeCounts finish();

 private:
  class Target;
  std::unique_ptr<Target> target_;
};

}  // namespace stillpoint
