// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-writer.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "host/capture/tree-content.hh"
#include "host/capture/tree-directories.hh"
#include "host/capture/tree-metadata.hh"
#include "host/capture/tree-wire.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <unordered_map>
#include <utility>

namespace stillpoint {
namespace {

/// Names beside the directory are made from its name.
std::filesystem::path without_slash(const std::filesystem::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

/// A directory under another name until it is complete.
class PartialDirectory {
 public:
  explicit PartialDirectory(const std::filesystem::path& target)
      : target_(without_slash(std::filesystem::absolute(target).lexically_normal())),
        partial_(target_.native() + fmt::format(".{}.partial", random_id().substr(0, 8))) {
    struct stat status {};
    if (::lstat(target_.c_str(), &status) == 0)
      throw UsageError(fmt::format("{} exists already", target_.native()), "name another directory");
    if (::mkdir(partial_.c_str(), 0700) != 0)
      throw_storage_errno(fmt::format("cannot make {}", partial_.native()), errno);
  }
  PartialDirectory(const PartialDirectory&) = delete;
  PartialDirectory& operator=(const PartialDirectory&) = delete;
  ~PartialDirectory() {
    std::error_code ignored;
    if (!complete_) std::filesystem::remove_all(partial_, ignored);
  }

  [[nodiscard]] UniqueFd open() const { return open_file(partial_, O_RDONLY | O_DIRECTORY | O_NOFOLLOW); }

  void complete(int fd) {
    // One call for the whole tree, instead of one for every file.
    if (::syncfs(fd) != 0) throw_storage_errno(fmt::format("cannot sync {}", partial_.native()), errno);
    if (rename_without_replacing(partial_, target_) != 0)
      throw_storage_errno(fmt::format("cannot name {}", target_.native()), errno);
    complete_ = true;
    sync_directory(target_.parent_path());
  }

 private:
  std::filesystem::path target_;
  std::filesystem::path partial_;
  bool complete_ = false;
};

UniqueFd open_previous(const std::optional<std::filesystem::path>& previous) {
  return UniqueFd(previous ? ::open(previous->c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1);
}

std::pair<std::string_view, std::string_view> split(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return {{}, path};
  return {path.substr(0, slash), path.substr(slash + 1)};
}

}  // namespace

class TreeWriter::Target {
 public:
  Target(const std::filesystem::path& target, const std::optional<std::filesystem::path>& previous, BlockReader& disk)
      : partial_(target),
        directories_(partial_.open(), open_previous(previous), keeper_),
        content_(disk, keeper_),
        root_(partial_.open()) {}

  void add(const TreeEntry& entry);
  TreeCounts finish();

 private:
  [[nodiscard]] std::string_view below_start(const TreeEntry& entry);
  void add_below(std::string_view path, const TreeEntry& entry);
  bool link_to_other_name(const std::string& name, const TreeEntry& entry);
  bool link_to_previous(const std::string& name, const TreeEntry& entry);
  bool create(const std::string& name, const TreeEntry& entry);
  void write_file(const std::string& name, const TreeEntry& entry);

  PartialDirectory partial_;
  MetadataKeeper keeper_;
  TreeDirectories directories_;
  ContentQueue content_;
  UniqueFd root_;
  TreeCounts counts_;
  bool started_ = false;
  std::string start_;  ///< path of the directory that the tree begins with
  struct Link {
    std::string path;
    std::uint32_t left;  ///< names still to come
  };
  std::unordered_map<std::uint64_t, Link> links_;  ///< of inodes with several names
};

/// The entry's path in the tree; empty for its root.
std::string_view TreeWriter::Target::below_start(const TreeEntry& entry) {
  const std::string_view path = entry.path;
  if (!started_) {
    started_ = true;
    if (entry.type == EntryType::directory) {
      start_ = path;
      return {};
    }
    start_ = split(path).first;
    return split(path).second;
  }
  if (start_.empty()) return path;
  if (!path.starts_with(start_) || path.size() < start_.size() + 2 || path[start_.size()] != '/')
    throw CaptureError(fmt::format("the entry {} lies outside the tree", path));
  return path.substr(start_.size() + 1);
}

void TreeWriter::Target::add(const TreeEntry& entry) {
  const std::string_view path = below_start(entry);
  ++counts_.entries;
  if (entry.type == EntryType::file) counts_.bytes += entry.size;
  if (path.empty())
    directories_.enter_root(entry);
  else
    add_below(path, entry);
}

void TreeWriter::Target::add_below(std::string_view path, const TreeEntry& entry) {
  const auto [directory, last] = split(path);
  const std::string name(last);
  if (!wire::is_name(name) || path.front() == '/')
    throw CaptureError(fmt::format("the entry {} has a name that none can have", entry.path));
  directories_.go_to(directory);
  if (entry.type == EntryType::directory) return directories_.enter(name, entry);
  if (entry.links > 1 && link_to_other_name(name, entry)) return;
  if (!link_to_previous(name, entry) && !create(name, entry)) return;
  if (entry.links > 1) links_[entry.inode] = {std::string(path), entry.links - 1};
}

/// Whether the inode is in the tree already, under another name.
bool TreeWriter::Target::link_to_other_name(const std::string& name, const TreeEntry& entry) {
  const auto found = links_.find(entry.inode);
  if (found == links_.end()) return false;
  const auto [directory, other] = split(found->second.path);
  const UniqueFd from = directories_.open(directory);
  const bool linked = ::linkat(from.get(), std::string(other).c_str(), directories_.innermost(), name.c_str(), 0) == 0;
  // Too many names for the target: this one becomes a copy that the next ones are linked to.
  if (!linked && errno != EMLINK) throw_storage_errno(fmt::format("cannot link {}", entry.path), errno);
  if (linked && --found->second.left == 0) links_.erase(found);
  return linked;
}

bool TreeWriter::Target::link_to_previous(const std::string& name, const TreeEntry& entry) {
  const int previous = directories_.previous();
  if (previous < 0 || !keeper_.is_same(previous, name, entry)) return false;
  if (::linkat(previous, name.c_str(), directories_.innermost(), name.c_str(), 0) == 0) return true;
  // Too many names, another file system, or somebody else's file where links to those are forbidden: written anew.
  if (errno == EMLINK || errno == EXDEV || errno == EPERM) return false;
  throw_storage_errno(fmt::format("cannot link {}", entry.path), errno);
}

void TreeWriter::Target::write_file(const std::string& name, const TreeEntry& entry) {
  UniqueFd fd(
      ::openat(directories_.innermost(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) throw_storage_errno(fmt::format("cannot make {}", entry.path), errno);
  ++counts_.files_written;
  content_.add(std::move(fd), entry);
}

/// False when the target has no such objects and it was left out.
bool TreeWriter::Target::create(const std::string& name, const TreeEntry& entry) {
  const int directory = directories_.innermost();
  if (entry.type == EntryType::file) {
    write_file(name, entry);
    return true;
  }
  if (entry.type == EntryType::symlink) {
    if (::symlinkat(entry.target.c_str(), directory, name.c_str()) != 0)
      throw_storage_errno(fmt::format("cannot make the symbolic link {}", entry.path), errno);
  } else if (::mknodat(directory, name.c_str(), type_bits(entry.type) | 0600,
                       ::makedev(entry.device_major, entry.device_minor)) != 0) {
    if (errno != EPERM && errno != EOPNOTSUPP)
      throw_storage_errno(fmt::format("cannot make the device {}", entry.path), errno);
    keeper_.warn("device", fmt::format("{}: left out: the target refuses device nodes", entry.path));
    return false;
  }
  keeper_.apply(directory, name, entry);
  return true;
}

TreeCounts TreeWriter::Target::finish() {
  content_.flush();
  directories_.leave_all();
  partial_.complete(root_.get());
  counts_.bytes_written = content_.bytes_written();
  counts_.warnings = keeper_.take_warnings();
  return std::move(counts_);
}

TreeWriter::TreeWriter(const std::filesystem::path& target, const std::optional<std::filesystem::path>& previous,
                       BlockReader& disk)
    : target_(std::make_unique<Target>(target, previous, disk)) {}
TreeWriter::~TreeWriter() = default;

void TreeWriter::entry(const TreeEntry& entry) {
  target_->add(entry);
}

TreeCounts TreeWriter::finish() {
  return target_->finish();
}

}  // namespace stillpoint
