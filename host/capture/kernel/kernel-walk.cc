// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/kernel/kernel-walk.hh"

#include "common/deleter.hh"
#include "common/errors.hh"
#include "common/text.hh"
#include "host/capture/appliance/mounted-inode.hh"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace stillpoint {
namespace {

/// Of a path that the kernel takes at once.
constexpr std::size_t most_of_path = 4000;

/// Opens what lies below a directory: no link is followed, and nothing leads out of it. -1 with errno.
UniqueFd open_below(int directory, std::string_view path, int flags) {
  UniqueFd at;
  for (;;) {
    while (path.starts_with('/'))
      path.remove_prefix(1);
    std::string_view part = path;
    if (part.size() > most_of_path) part = part.substr(0, part.rfind('/', most_of_path));
    path.remove_prefix(part.size());
    while (part.ends_with('/'))
      part.remove_suffix(1);
    open_how how{};
    how.flags = static_cast<__u64>((path.empty() ? flags : O_PATH | O_DIRECTORY) | O_NOFOLLOW | O_CLOEXEC);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
    const std::string words(part.empty() ? "." : part);
    UniqueFd next(static_cast<int>(::syscall(SYS_openat2, at ? at.get() : directory, words.c_str(), &how, sizeof how)));
    if (!next || path.empty()) return next;
    at = std::move(next);
  }
}

UniqueFd open_content(int directory, std::string_view path) {
  UniqueFd file = open_below(directory, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!file) throw_errno<CaptureError>(fmt::format("cannot open {}", printable(path)));
  return file;
}

/// Its holes would be written as zeros, and a small disk could fill the target.
bool is_sparse(const struct stat& status) {
  return status.st_blocks < status.st_size / 512;
}

/// Where a file has data; all of it where that is not to be told. `begin`: where its content lies for the reader.
std::vector<TreeEntry::FileExtent> data_of(int file, std::uint64_t size, std::uint64_t begin) {
  std::vector<TreeEntry::FileExtent> extents;
  for (off_t at = 0; static_cast<std::uint64_t>(at) < size;) {
    const off_t data = ::lseek(file, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    const off_t hole = data < 0 ? -1 : ::lseek(file, data, SEEK_HOLE);
    if (data < at || hole <= data || extents.size() == wire::max_extents) return {{0, begin, size}};
    const auto offset = static_cast<std::uint64_t>(data);
    if (offset >= size) break;
    const std::uint64_t end = std::min(static_cast<std::uint64_t>(hole), size);
    extents.push_back({offset, begin + offset, end - offset});
    at = hole;
  }
  return extents;
}

class KernelWalk {
 public:
  KernelWalk(KernelMounts& mounts, KernelContents& contents, Parent& parent, const MountedFileSystem& file_system,
             const std::function<void()>& wait)
      : mounts_(mounts), contents_(contents), parent_(parent), file_system_(file_system), wait_(wait) {}

  void run(std::string_view path, bool recursive);

 private:
  struct Child {
    std::string name;
    ino_t inode = 0;
  };
  struct Level {
    std::string path;  ///< from the mounted root, with a slash at both ends
    UniqueFd directory;
    std::vector<Child> children;
    std::size_t next = 0;
  };

  [[nodiscard]] Level open(const std::string& path, int above, const std::string& name);
  void list(Level& level);
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> xattrs(const std::string& name);
  void add_content(const Level& level, const std::string& name, const struct stat& status, TreeEntry& entry);
  bool send(const Level& level, const std::string& name, std::uint32_t depth);
  void warn(std::string_view text);
  void flush();

  KernelMounts& mounts_;
  KernelContents& contents_;
  Parent& parent_;
  const MountedFileSystem& file_system_;
  const std::function<void()>& wait_;
  wire::Writer entries_{wire::Type::entries};
  // Of one file after the other.
  std::string names_ = std::string(wire::max_xattr, '\0');
  std::string value_ = std::string(wire::max_xattr, '\0');
};

void KernelWalk::flush() {
  if (entries_.payload_size() == 0) return;
  parent_.send(entries_.finish());
  entries_.restart();
  wait_();
}

void KernelWalk::warn(std::string_view text) {
  wire::Writer warning(wire::Type::warning);
  warning.string(text.substr(0, wire::max_text));
  parent_.send(warning.finish());
}

KernelWalk::Level KernelWalk::open(const std::string& path, int above, const std::string& name) {
  Level level{path, open_below(above, name, O_RDONLY | O_DIRECTORY), {}, 0};
  if (!level.directory) throw_errno<CaptureError>(fmt::format("cannot open the directory {}", printable(path)));
  return level;
}

void KernelWalk::list(Level& level) {
  const auto cannot = [&level] {
    throw_errno<CaptureError>(fmt::format("cannot read the directory {}", printable(level.path)));
  };
  const int copy = ::fcntl(level.directory.get(), F_DUPFD_CLOEXEC, 0);
  const CPtr<DIR, ::closedir> opened(copy < 0 ? nullptr : ::fdopendir(copy));
  if (!opened) cannot();
  for (;;) {
    errno = 0;
    const dirent* found = ::readdir(opened.get());
    if (found == nullptr && errno != 0) cannot();
    if (found == nullptr) break;
    const std::string_view name = found->d_name;
    if (name == "." || name == "..") continue;
    if (!wire::is_name(name)) throw CaptureError("a name that no file can have");
    if (level.children.size() == most_children) throw CaptureError("more names than a directory can have");
    level.children.push_back({std::string(name), found->d_ino});
  }
  std::sort(level.children.begin(), level.children.end(),
            [](const Child& a, const Child& b) { return a.inode != b.inode ? a.inode < b.inode : a.name < b.name; });
}

/// Of what lies in the current directory.
std::vector<std::pair<std::string, std::string>> KernelWalk::xattrs(const std::string& name) {
  const auto cannot = [&name] {
    throw_errno<CaptureError>(fmt::format("cannot read extended attributes of {}", printable(name)));
  };
  const ssize_t length = ::llistxattr(name.c_str(), names_.data(), names_.size());
  if (length < 0 && (errno == EOPNOTSUPP || errno == ENOTSUP)) return {};
  if (length < 0) cannot();
  std::string_view rest = std::string_view(names_).substr(0, static_cast<std::size_t>(length));
  std::vector<std::pair<std::string, std::string>> found;
  for (std::size_t end = rest.find('\0'); end != std::string_view::npos; end = rest.find('\0')) {
    const std::string key(rest.substr(0, end));
    rest.remove_prefix(end + 1);
    if (!is_kept_xattr(key)) continue;
    if (found.size() == wire::max_xattrs) throw CaptureError("extended attributes beyond all limits");
    const ssize_t bytes = ::lgetxattr(name.c_str(), key.c_str(), value_.data(), value_.size());
    if (bytes < 0) cannot();
    found.emplace_back(key, value_.substr(0, static_cast<std::size_t>(bytes)));
  }
  std::sort(found.begin(), found.end());
  return found;
}

void KernelWalk::add_content(const Level& level, const std::string& name, const struct stat& status, TreeEntry& entry) {
  entry.size = static_cast<std::uint64_t>(status.st_size);
  std::uint64_t begin = 0;
  bool fits = contents_.add(file_system_.root, level.path, name, status, begin);
  if (fits && is_sparse(status)) {
    entry.extents = data_of(open_content(level.directory.get(), name).get(), entry.size, begin);
    std::uint64_t data = 0;
    for (const TreeEntry::FileExtent& extent : entry.extents)
      data += extent.length;
    fits = data <= mounts_.total_bytes();
  } else if (fits) {
    entry.extents = {{0, begin, entry.size}};
  }
  if (fits) return;
  // Its holes stay holes: the rest is not to be had.
  warn(fmt::format("{}{}: longer than all disks, its content is left out", printable(level.path), printable(name)));
  entry.extents.clear();
}

/// Whether its children are to be walked too.
bool KernelWalk::send(const Level& level, const std::string& name, std::uint32_t depth) {
  const auto cannot = [&](const char* what) {
    throw_errno<CaptureError>(fmt::format("cannot {} {}{}", what, printable(level.path), printable(name)));
  };
  struct stat status {};
  if (::fchdir(level.directory.get()) != 0 ||
      ::fstatat(level.directory.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
    cannot("look at");
  TreeEntry entry;
  if (!entry_type(status.st_mode, entry.type)) throw CaptureError("a file of a type that there is not");
  entry.mode = status.st_mode & 07777U;
  entry.uid = status.st_uid;
  entry.gid = status.st_gid;
  entry.mtime_ns = time_in_ns(status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
  entry.inode = status.st_ino ^ (contents_.device_index(status.st_dev) << inode_bits);
  entry.links = static_cast<std::uint32_t>(std::clamp<nlink_t>(status.st_nlink, 1, UINT32_MAX));
  entry.xattrs = xattrs(name);
  if (entry.type == EntryType::symlink) {
    entry.target.resize(wire::max_target + 1);
    const ssize_t length = ::readlinkat(level.directory.get(), name.c_str(), entry.target.data(), entry.target.size());
    if (length < 0) cannot("read the link");
    entry.target.resize(static_cast<std::size_t>(length));
  }
  if (entry.type == EntryType::character_device || entry.type == EntryType::block_device) {
    entry.device_major = major(status.st_rdev);
    entry.device_minor = minor(status.st_rdev);
  }
  if (entry.type == EntryType::file && status.st_size > 0) add_content(level, name, status, entry);
  wire::write_entry(entries_, depth, depth == 0 ? std::string_view() : name, entry);
  if (entries_.payload_size() >= wire::batch_bytes) flush();
  return entry.type == EntryType::directory;
}

void KernelWalk::run(std::string_view path, bool recursive) {
  std::string whole = file_system_.prefix + std::string(path);
  while (whole.ends_with('/'))
    whole.pop_back();
  const std::size_t slash = whole.rfind('/');
  const std::string above = slash == std::string::npos ? "" : whole.substr(0, slash);
  const std::string name = whole.empty() ? "." : whole.substr(slash == std::string::npos ? 0 : slash + 1);
  Level parent{
      "/" + above + (above.empty() ? "" : "/"), open_below(file_system_.root, above, O_RDONLY | O_DIRECTORY), {}, 0};
  struct stat status {};
  if (!parent.directory || ::fstatat(parent.directory.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)
      throw NotFound(fmt::format("{} has no \"{}\"", printable(parent.path), printable(name)));
    throw_errno<CaptureError>(fmt::format("cannot look at /{}", printable(whole)));
  }
  std::vector<Level> levels;
  if (send(parent, name, 0)) {
    levels.push_back(open(whole.empty() ? "/" : "/" + whole + "/", parent.directory.get(), name));
    list(levels.back());
  }
  while (!levels.empty()) {
    Level& level = levels.back();
    if (level.next == level.children.size()) {
      levels.pop_back();
      continue;
    }
    const Child child = std::move(level.children[level.next++]);
    if (!send(level, child.name, static_cast<std::uint32_t>(levels.size())) || !recursive) continue;
    if (levels.size() == wire::max_depth) throw CaptureError("directories too deep in each other");
    levels.push_back(open(level.path + child.name + "/", level.directory.get(), child.name));
    list(levels.back());
  }
  flush();
}

}  // namespace

void KernelContents::clear() {
  open_file_ = nullptr;
  open_.reset();
  files_.clear();
  directories_.clear();
  known_.clear();
  // Numbers go on, so that nothing is taken for another file, as long as there are enough.
  if (next_ > INT64_MAX / 2) next_ = 0;
  first_ = next_;
}

bool KernelContents::add(int root, const std::string& directory, const std::string& name, const struct stat& status,
                         std::uint64_t& offset) {
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size > INT64_MAX - next_) return false;
  const std::pair inode(status.st_dev, status.st_ino);
  const auto place = status.st_nlink > 1 ? known_.find(inode) : known_.end();
  offset = place == known_.end() ? next_ : place->second;
  if (place != known_.end()) return true;
  if (directories_.empty() || directories_.back().path != directory || directories_.back().root != root)
    directories_.push_back({root, directory});
  files_.push_back({next_, size, directories_.size() - 1, name});
  // Not before: there may be no memory.
  if (status.st_nlink > 1) known_.emplace(inode, next_);
  next_ += size;
  return true;
}

void KernelContents::read(std::span<char> buffer, std::uint64_t offset) {
  if (offset < first_) throw CaptureError("a file of an earlier walk, which is forgotten");
  while (!buffer.empty()) {
    auto file = std::upper_bound(files_.begin(), files_.end(), offset,
                                 [](std::uint64_t at, const File& each) { return at < each.begin; });
    if (file == files_.begin() || offset >= std::prev(file)->begin + std::prev(file)->size) {
      std::fill(buffer.begin(), buffer.end(), '\0');
      return;
    }
    --file;
    const Directory& directory = directories_[file->directory];
    if (open_file_ != &*file) {
      open_file_ = nullptr;
      open_ = open_content(directory.root, directory.path + file->name);
      open_file_ = &*file;
    }
    const std::uint64_t inside = offset - file->begin;
    const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), file->size - inside));
    const ssize_t got = ::pread(open_.get(), buffer.data(), wanted, static_cast<off_t>(inside));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      throw_errno<CaptureError>(fmt::format("cannot read {}{}", printable(directory.path), printable(file->name)));
    // Nothing is the end.
    const std::size_t taken = got == 0 ? wanted : static_cast<std::size_t>(got);
    if (got == 0) std::fill_n(buffer.begin(), taken, '\0');
    buffer = buffer.subspan(taken);
    offset += taken;
  }
}

void walk_mounted(KernelMounts& mounts, KernelContents& contents, Parent& parent, const MountedFileSystem& file_system,
                  std::string_view path, bool recursive, const std::function<void()>& wait) {
  if (file_system.root < 0) throw CaptureError(file_system.obstacle);
  // Whoever reads all of it has done with what was before.
  if (recursive && path.empty()) contents.clear();
  KernelWalk(mounts, contents, parent, file_system, wait).run(path, recursive);
}

}  // namespace stillpoint
