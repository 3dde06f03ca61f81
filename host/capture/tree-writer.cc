// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-writer.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "host/capture/tree-crew.hh"
#include "host/capture/tree-directories.hh"
#include "host/capture/tree-entry-writer.hh"
#include "host/capture/tree-metadata.hh"
#include "host/capture/tree-wire.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>

namespace stillpoint {
namespace {

constexpr unsigned most_threads = 4;

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
  Target(const std::filesystem::path& target, const std::optional<std::filesystem::path>& previous, SharedReader& disk,
         TreeOwners owners)
      : partial_(target),
        root_(partial_.open()),
        keeper_(root_.get(), owners),
        directories_(partial_.open(), open_previous(previous), keeper_, [this] { crew_.wait(); }),
        writer_(disk, keeper_, asked_),
        crew_(keeper_, writers(disk)) {}

  void add(const TreeEntry& entry);
  TreeCounts finish();

 private:
  [[nodiscard]] std::vector<std::unique_ptr<EntryWriter>> writers(SharedReader& disk);
  [[nodiscard]] std::string_view below_start(const TreeEntry& entry);
  void add_below(std::string_view path, const TreeEntry& entry);
  void add_linked(const std::string& name, const TreeEntry& entry);
  bool link_to_other_name(const std::string& name, const TreeEntry& entry);

  PartialDirectory partial_;
  UniqueFd root_;
  MetadataKeeper keeper_;
  TreeDirectories directories_;
  std::atomic<std::uint64_t> asked_ = 0;
  EntryWriter writer_;  ///< of what has several names, which must come one after the other
  TreeCounts counts_;
  bool started_ = false;
  std::string start_;  ///< path of the directory that the tree begins with
  struct Link {
    std::string place;  ///< of its directory
    std::string name;
    std::uint32_t left;  ///< names still to come
  };
  std::unordered_map<std::uint64_t, Link> links_;  ///< of inodes with several names
  TreeCrew crew_;                                  ///< ends first
};

std::vector<std::unique_ptr<EntryWriter>> TreeWriter::Target::writers(SharedReader& disk) {
  std::vector<std::unique_ptr<EntryWriter>> writers;
  for (unsigned i = std::clamp(std::thread::hardware_concurrency(), 1U, most_threads); i > 0; --i)
    writers.push_back(std::make_unique<EntryWriter>(disk, keeper_, asked_));
  return writers;
}

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
  if (entry.links > 1) return add_linked(name, entry);
  crew_.add({directories_.innermost(), name, entry});
}

void TreeWriter::Target::add_linked(const std::string& name, const TreeEntry& entry) {
  if (link_to_other_name(name, entry)) return;
  std::string made = writer_.write(*directories_.innermost(), name, entry);
  if (!made.empty()) links_[entry.inode] = {directories_.place(), std::move(made), entry.links - 1};
}

/// Whether the inode is in the tree already, under another name.
bool TreeWriter::Target::link_to_other_name(const std::string& name, const TreeEntry& entry) {
  const auto found = links_.find(entry.inode);
  if (found == links_.end()) return false;
  const bool is_here = found->second.place == directories_.place();
  const UniqueFd other = is_here ? UniqueFd() : directories_.open(found->second.place);
  const int from = is_here ? directories_.innermost()->fd() : other.get();
  const auto link_as = [&](const std::string& made) {
    return ::linkat(from, found->second.name.c_str(), directories_.innermost()->fd(), made.c_str(), 0) == 0;
  };
  bool linked = link_as(name);
  if (!linked && errno == EEXIST && keeper_.ignores_case()) {
    linked = link_as(name_beside(name, entry));
    if (linked) keeper_.warn_of_case(entry.path, name_beside(name, entry));
  }
  // Too many names for the target: this one becomes a copy that the next ones are linked to.
  if (!linked && errno != EMLINK) throw_storage_errno(fmt::format("cannot link {}", entry.path), errno);
  if (linked && --found->second.left == 0) links_.erase(found);
  return linked;
}

TreeCounts TreeWriter::Target::finish() {
  writer_.finish();
  directories_.leave_all();
  crew_.finish();
  partial_.complete(root_.get());
  counts_.files_written = writer_.files_written() + crew_.files_written();
  counts_.bytes_written = writer_.bytes_written() + crew_.bytes_written();
  counts_.warnings = keeper_.take_warnings();
  return std::move(counts_);
}

TreeWriter::TreeWriter(const std::filesystem::path& target, const std::optional<std::filesystem::path>& previous,
                       SharedReader& disk, TreeOwners owners)
    : target_(std::make_unique<Target>(target, previous, disk, owners)) {}
TreeWriter::~TreeWriter() = default;

void TreeWriter::entry(const TreeEntry& entry) {
  target_->add(entry);
}

TreeCounts TreeWriter::finish() {
  return target_->finish();
}

}  // namespace stillpoint
