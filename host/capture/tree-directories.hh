// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"
#include "host/capture/tree-metadata.hh"

#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// The directories from the tree's root to where entries are being written, and those of the previous tree beside them.
/// A directory that is left is complete: its mode and time are set then. Symbolic links are never followed.
class TreeDirectories {
 public:
  /// `previous` may own nothing.
  TreeDirectories(UniqueFd root, UniqueFd previous, MetadataKeeper& keeper);

  /// Leaves directories until the innermost one is `path` (relative to the root). Throws CaptureError when it was not
  /// entered before.
  void go_to(std::string_view path);
  /// Makes and enters a directory of the innermost one.
  void enter(const std::string& name, const TreeEntry& entry);
  /// The root, which exists.
  void enter_root(const TreeEntry& entry);
  /// Leaves all of them.
  void leave_all();

  [[nodiscard]] int innermost() const noexcept { return levels_.back().fd.get(); }
  /// Its counterpart in the previous tree, or -1.
  [[nodiscard]] int previous() const noexcept { return levels_.back().previous.get(); }
  /// Opens a directory of the tree by its path, for links to what is in it.
  [[nodiscard]] UniqueFd open(std::string_view path) const;

 private:
  struct Level {
    std::string path;
    UniqueFd fd;
    UniqueFd previous;
    std::vector<Metadata> metadata;  ///< one; none for a root that no entry described
  };
  void leave();
  void save_descriptors();

  UniqueFd root_;
  UniqueFd previous_root_;
  MetadataKeeper& keeper_;
  std::vector<Level> levels_;
};

}  // namespace stillpoint
