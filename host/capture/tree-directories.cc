// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-directories.hh"

#include "common/errors.hh"
#include "host/capture/tree-wire.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace stillpoint {
namespace {

/// Levels whose descriptors stay open.
constexpr std::size_t most_open = 32;
constexpr int directory_flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

UniqueFd duplicate(int fd) {
  return UniqueFd(fd < 0 ? -1 : ::fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

/// By one name after the other: paths may be longer than the kernel takes. Owns nothing when it is not there.
UniqueFd open_below(int root, std::string_view path) {
  UniqueFd at = duplicate(root);
  while (at && !path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    const std::string name(path.substr(0, slash));
    path.remove_prefix(std::min(slash + 1, path.size()));
    at = UniqueFd(::openat(at.get(), name.c_str(), directory_flags));
  }
  return at;
}

}  // namespace

void FilledDirectory::leave(MetadataKeeper& keeper) {
  if (users_.fetch_sub(1, std::memory_order_acq_rel) == 1 && metadata_) keeper.apply(fd(), *metadata_);
}

std::string name_beside(const std::string& name, const TreeEntry& entry) {
  const std::string mark = fmt::format("~{}", entry.inode);
  return name.substr(0, wire::max_name - mark.size()) + mark;
}

TreeDirectories::TreeDirectories(UniqueFd root, UniqueFd previous, MetadataKeeper& keeper, std::function<void()> wait)
    : root_(std::move(root)), previous_root_(std::move(previous)), keeper_(keeper), wait_(std::move(wait)) {
  levels_.push_back(
      {"", "", std::make_shared<FilledDirectory>(duplicate(root_.get()), duplicate(previous_root_.get()))});
}

UniqueFd TreeDirectories::open(std::string_view place) const {
  UniqueFd fd = open_below(root_.get(), place);
  if (!fd) throw_storage_errno(fmt::format("cannot open the directory {}", place), errno);
  return fd;
}

void TreeDirectories::leave() {
  // With the last user goes its content's last change; its parent is still to get a change of its own.
  levels_.back().directory->leave(keeper_);
  levels_.pop_back();
  if (levels_.empty() || levels_.back().directory->fd() >= 0) return;
  const Level& outer = levels_.back();
  outer.directory->reopen(open(outer.place), open_below(previous_root_.get(), outer.place));
}

void TreeDirectories::go_to(std::string_view path) {
  const auto is_within = [&path](const std::string& outer) {
    return outer.empty() || path == outer || (path.starts_with(outer) && path[outer.size()] == '/');
  };
  while (!levels_.empty() && !is_within(levels_.back().path))
    leave();
  if (levels_.empty() || levels_.back().path != path)
    throw CaptureError(fmt::format("an entry below {}, which is no directory of the tree", path));
}

void TreeDirectories::save_descriptors() {
  if (levels_.size() <= most_open) return;
  FilledDirectory& outer = *levels_[levels_.size() - 1 - most_open].directory;
  if (outer.fd() >= 0 && outer.is_shared()) wait_();
  outer.close();
}

void TreeDirectories::enter(const std::string& name, const TreeEntry& entry) {
  FilledDirectory& outer = *innermost();
  std::string made = name;
  int status = ::mkdirat(outer.fd(), made.c_str(), 0700);
  if (status != 0 && errno == EEXIST && keeper_.ignores_case()) {
    made = name_beside(name, entry);
    keeper_.warn_of_case(entry.path, made);
    status = ::mkdirat(outer.fd(), made.c_str(), 0700);
  }
  if (status != 0) throw_storage_errno(fmt::format("cannot make the directory {}", entry.path), errno);
  UniqueFd fd(::openat(outer.fd(), made.c_str(), directory_flags));
  if (!fd) throw_storage_errno(fmt::format("cannot open the directory {}", entry.path), errno);
  UniqueFd beside;
  if (outer.previous() >= 0) beside = UniqueFd(::openat(outer.previous(), made.c_str(), directory_flags));
  const auto below = [](const std::string& path, const std::string& last) {
    return path.empty() ? last : path + "/" + last;
  };
  auto directory = std::make_shared<FilledDirectory>(std::move(fd), std::move(beside));
  directory->set_metadata(entry);
  levels_.push_back({below(levels_.back().path, name), below(levels_.back().place, made), std::move(directory)});
  save_descriptors();
}

void TreeDirectories::enter_root(const TreeEntry& entry) {
  innermost()->set_metadata(entry);
}

void TreeDirectories::leave_all() {
  while (!levels_.empty())
    leave();
}

}  // namespace stillpoint
