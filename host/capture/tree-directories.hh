// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"
#include "host/capture/tree-metadata.hh"

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace stillpoint {

/// A directory that is being filled, by several threads. When the last of its users has left it is complete: its mode
/// and time are set then.
class FilledDirectory {
 public:
  FilledDirectory(UniqueFd fd, UniqueFd previous) : fd_(std::move(fd)), previous_(std::move(previous)) {}

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  /// Its counterpart in the previous tree, or -1.
  [[nodiscard]] int previous() const noexcept { return previous_.get(); }
  void set_metadata(const TreeEntry& entry) { metadata_.emplace(entry); }

  /// Whoever made it is its first user.
  void hold() noexcept { users_.fetch_add(1, std::memory_order_relaxed); }
  /// Throws StorageError.
  void leave(MetadataKeeper& keeper);

  /// One user alone may close it, and open it again before others come.
  [[nodiscard]] bool is_shared() const noexcept { return users_.load(std::memory_order_acquire) > 1; }
  void close() noexcept {
    fd_.reset();
    previous_.reset();
  }
  void reopen(UniqueFd fd, UniqueFd previous) noexcept {
    fd_ = std::move(fd);
    previous_ = std::move(previous);
  }

 private:
  UniqueFd fd_;
  UniqueFd previous_;
  std::optional<Metadata> metadata_;  ///< none for a root that no entry described
  std::atomic<int> users_{1};
};

/// The directories from the tree's root to where entries are being written, and those of the previous tree beside them.
/// Symbolic links are never followed.
class TreeDirectories {
 public:
  /// `previous` may own nothing. `wait` returns when nobody else uses any directory.
  TreeDirectories(UniqueFd root, UniqueFd previous, MetadataKeeper& keeper, std::function<void()> wait);

  /// Leaves directories until the innermost one is `path` (relative to the root). Throws CaptureError when it was not
  /// entered before.
  void go_to(std::string_view path);
  /// Makes and enters a directory of the innermost one.
  void enter(const std::string& name, const TreeEntry& entry);
  /// The root, which exists.
  void enter_root(const TreeEntry& entry);
  /// Leaves all of them.
  void leave_all();

  [[nodiscard]] const std::shared_ptr<FilledDirectory>& innermost() const noexcept { return levels_.back().directory; }
  /// Where it lies in the tree, for open().
  [[nodiscard]] const std::string& place() const noexcept { return levels_.back().place; }
  /// Opens a directory of the tree, for links to what is in it.
  [[nodiscard]] UniqueFd open(std::string_view place) const;

 private:
  struct Level {
    std::string path;   ///< of the entries
    std::string place;  ///< the same in the tree, where another name may be needed for it
    std::shared_ptr<FilledDirectory> directory;
  };
  void leave();
  void save_descriptors();

  UniqueFd root_;
  UniqueFd previous_root_;
  MetadataKeeper& keeper_;
  std::function<void()> wait_;
  std::vector<Level> levels_;
};

/// The name that stands for one which the target takes for another's, differing in case only.
[[nodiscard]] std::string name_beside(const std::string& name, const TreeEntry& entry);

}  // namespace stillpoint
