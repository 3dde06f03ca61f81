// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-directories.hh"

#include "common/errors.hh"

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
constexpr std::size_t most_open = 64;
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

TreeDirectories::TreeDirectories(UniqueFd root, UniqueFd previous, MetadataKeeper& keeper)
    : root_(std::move(root)), previous_root_(std::move(previous)), keeper_(keeper) {
  levels_.push_back({"", duplicate(root_.get()), duplicate(previous_root_.get()), {}});
}

UniqueFd TreeDirectories::open(std::string_view path) const {
  UniqueFd fd = open_below(root_.get(), path);
  if (!fd) throw_storage_errno(fmt::format("cannot open the directory {}", path), errno);
  return fd;
}

void TreeDirectories::leave() {
  Level& level = levels_.back();
  // With it goes its content's last change; its parent is still to get a change of its own.
  for (const Metadata& metadata : level.metadata)
    keeper_.apply(level.fd.get(), metadata);
  levels_.pop_back();
  if (levels_.empty() || levels_.back().fd) return;
  Level& outer = levels_.back();
  outer.fd = open(outer.path);
  outer.previous = open_below(previous_root_.get(), outer.path);
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
  Level& level = levels_[levels_.size() - 1 - most_open];
  level.fd.reset();
  level.previous.reset();
}

void TreeDirectories::enter(const std::string& name, const TreeEntry& entry) {
  if (::mkdirat(innermost(), name.c_str(), 0700) != 0)
    throw_storage_errno(fmt::format("cannot make the directory {}", entry.path), errno);
  UniqueFd fd(::openat(innermost(), name.c_str(), directory_flags));
  if (!fd) throw_storage_errno(fmt::format("cannot open the directory {}", entry.path), errno);
  UniqueFd beside;
  if (previous() >= 0) beside = UniqueFd(::openat(previous(), name.c_str(), directory_flags));
  std::string path = levels_.back().path;
  if (!path.empty()) path += '/';
  path += name;
  levels_.push_back({std::move(path), std::move(fd), std::move(beside), {Metadata(entry)}});
  save_descriptors();
}

void TreeDirectories::enter_root(const TreeEntry& entry) {
  levels_.front().metadata = {Metadata(entry)};
}

void TreeDirectories::leave_all() {
  while (!levels_.empty())
    leave();
}

}  // namespace stillpoint
