// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/tree-entry.hh"
#include "host/capture/shared-reader.hh"
#include "host/capture/tree-metadata.hh"

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
  /// Writes a tree that is named `target` by finish() (must not exist, its parent directory must); until then it lies
  /// beside it under another name, and without finish() it is removed. `previous` is an earlier tree of the same file
  /// system, ignored where there is none. Contents are read from `disk`, by threads of its own: whoever reads it
  /// meanwhile does it through the same object. The first entry is what the tree begins with:
  /// a directory becomes `target` itself, anything else lies in it. Throws UsageError, StorageError.
  TreeWriter(const std::filesystem::path& target, const std::optional<std::filesystem::path>& previous,
             SharedReader& disk, TreeOwners owners = TreeOwners::dropped);
  TreeWriter(const TreeWriter&) = delete;
  TreeWriter& operator=(const TreeWriter&) = delete;
  ~TreeWriter() override;

  void entry(const TreeEntry& entry) override;

  /// Writes what is left, makes all of it durable and gives it its name. Throws StorageError, CaptureError.
  [[nodiscard]] TreeCounts finish();

 private:
  class Target;
  std::unique_ptr<Target> target_;
};

}  // namespace stillpoint
