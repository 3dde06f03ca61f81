// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/appliance/appliance-walk.hh"

#include "common/errors.hh"
#include "common/text.hh"
#include "host/capture/appliance/mounted-inode.hh"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace stillpoint {
namespace {

constexpr std::size_t step_names = 500;
constexpr std::size_t step_bytes = std::size_t{2} << 20;  ///< of a message of libguestfs, which has 4 MiB at most
/// Names for libguestfs, which wants them as C has it.
class NameList {
 public:
  explicit NameList(std::span<const std::string> names) {
    for (const std::string& name : names)
      list_.push_back(const_cast<char*>(name.c_str()));
    list_.push_back(nullptr);
  }
  [[nodiscard]] char* const* get() const { return list_.data(); }

 private:
  std::vector<char*> list_;
};

/// Its holes would be written as zeros, and a small disk could fill the target.
bool is_sparse(const struct guestfs_statns& status) {
  return status.st_blocks < status.st_size / 512;
}

class ApplianceWalk {
 public:
  ApplianceWalk(Appliance& appliance, ApplianceContents& contents, Parent& parent,
                const ApplianceFileSystem& file_system, const std::function<void()>& wait)
      : appliance_(appliance),
        g_(appliance.get()),
        contents_(contents),
        parent_(parent),
        file_system_(file_system),
        wait_(wait) {}

  void run(std::string_view path, bool recursive);

 private:
  /// What lies in one directory, or is looked at alone.
  struct Child {
    std::string name;
    struct guestfs_statns status {};
    std::string target;
    std::vector<std::pair<std::string, std::string>> xattrs;
  };
  struct Level {
    std::string directory;  ///< of the children, from the mounted root, with a slash at both ends
    std::vector<Child> children;
    std::size_t next = 0;
  };

  [[nodiscard]] std::string find(std::string_view path, Child& start);
  [[nodiscard]] bool is_directory(const std::string& directory, const std::string& name);
  std::vector<Child> list(const std::string& directory);
  void describe(const std::string& directory, std::span<Child> children);
  void describe_some(const std::string& directory, std::span<Child> children);
  void add_xattrs(const std::string& directory, std::span<Child> children, std::span<const std::string> names);
  bool send(const std::string& directory, Child& child, std::uint32_t depth);
  [[nodiscard]] std::uint64_t inode_of(const struct guestfs_statns& status);
  void warn(std::string_view text);
  void flush();

  Appliance& appliance_;
  guestfs_h* g_;
  ApplianceContents& contents_;
  Parent& parent_;
  const ApplianceFileSystem& file_system_;
  const std::function<void()>& wait_;
  wire::Writer entries_{wire::Type::entries};
  bool has_xattrs_ = true;
};

void ApplianceWalk::flush() {
  if (entries_.payload_size() == 0) return;
  parent_.send(entries_.finish());
  entries_.restart();
  wait_();
}

void ApplianceWalk::warn(std::string_view text) {
  wire::Writer warning(wire::Type::warning);
  warning.string(text.substr(0, wire::max_text));
  parent_.send(warning.finish());
}

std::uint64_t ApplianceWalk::inode_of(const struct guestfs_statns& status) {
  return static_cast<std::uint64_t>(status.st_ino) ^ (contents_.device_index(status.st_dev) << inode_bits);
}

void ApplianceWalk::add_xattrs(const std::string& directory, std::span<Child> children,
                               std::span<const std::string> names) {
  const NameList list(names);
  const CPtr<guestfs_xattr_list, guestfs_free_xattr_list> found(guestfs_lxattrlist(g_, directory.c_str(), list.get()));
  if (!found) {
    if (guestfs_last_errno(g_) == EOPNOTSUPP) {
      has_xattrs_ = false;
      return;
    }
    if (children.size() == 1)
      appliance_.fail(fmt::format("cannot read extended attributes of {}", printable(names[0])));
    // More than one message holds.
    for (std::size_t i = 0; i < children.size(); ++i)
      add_xattrs(directory, children.subspan(i, 1), names.subspan(i, 1));
    return;
  }
  // Each file's are behind one without a name, whose value is their number.
  std::uint32_t at = 0;
  for (Child& child : children) {
    if (at >= found->len) throw CaptureError("the appliance gave another answer");
    const guestfs_xattr& head = found->val[at++];
    std::uint32_t count = 0;
    std::from_chars(head.attrval, head.attrval + head.attrval_len, count);
    if (count > found->len - at) throw CaptureError("the appliance gave another answer");
    for (std::uint32_t i = 0; i < count; ++i) {
      const guestfs_xattr& xattr = found->val[at++];
      if (!is_kept_xattr(xattr.attrname) || child.xattrs.size() == wire::max_xattrs) continue;
      child.xattrs.emplace_back(xattr.attrname, std::string(xattr.attrval, xattr.attrval_len));
    }
    std::sort(child.xattrs.begin(), child.xattrs.end());
  }
}

void ApplianceWalk::describe_some(const std::string& directory, std::span<Child> children) {
  std::vector<std::string> names;
  for (const Child& child : children)
    names.push_back(child.name);
  const NameList list(names);
  const CPtr<guestfs_statns_list, guestfs_free_statns_list> found(
      guestfs_lstatnslist(g_, directory.c_str(), list.get()));
  if (!found) appliance_.fail(fmt::format("cannot look into {}", printable(directory)));
  if (found->len != children.size()) throw CaptureError("the appliance gave another answer");
  std::vector<std::string> link_names;
  std::vector<std::size_t> links;
  for (std::size_t i = 0; i < children.size(); ++i) {
    children[i].status = found->val[i];
    if (children[i].status.st_ino == -1) appliance_.fail(fmt::format("cannot look at {}", printable(names[i])));
    if ((children[i].status.st_mode & S_IFMT) != S_IFLNK) continue;
    link_names.push_back(names[i]);
    links.push_back(i);
  }
  if (!links.empty()) {
    const NameList some(link_names);
    char** targets = guestfs_readlinklist(g_, directory.c_str(), some.get());
    if (targets == nullptr) appliance_.fail(fmt::format("cannot read links in {}", printable(directory)));
    std::size_t i = 0;
    for (char** target = targets; *target != nullptr; ++target, ++i) {
      if (i < links.size()) children[links[i]].target = *target;
      std::free(*target);
    }
    std::free(targets);
  }
  if (has_xattrs_) add_xattrs(directory, children, names);
}

void ApplianceWalk::describe(const std::string& directory, std::span<Child> children) {
  for (std::size_t at = 0; at < children.size(); at += step_names)
    describe_some(directory, children.subspan(at, std::min(step_names, children.size() - at)));
}

std::vector<ApplianceWalk::Child> ApplianceWalk::list(const std::string& directory) {
  const CPtr<guestfs_dirent_list, guestfs_free_dirent_list> found(guestfs_readdir(g_, directory.c_str()));
  if (!found) appliance_.fail(fmt::format("cannot read the directory {}", printable(directory)));
  if (found->len > most_children) throw CaptureError("more names than a directory can have");
  std::vector<Child> children;
  for (std::uint32_t i = 0; i < found->len; ++i) {
    const std::string_view name = found->val[i].name;
    if (name == "." || name == "..") continue;
    if (!wire::is_name(name)) throw CaptureError("a name that no file can have");
    children.emplace_back().name = name;
    children.back().status.st_ino = found->val[i].ino;
  }
  std::sort(children.begin(), children.end(), [](const Child& a, const Child& b) {
    return a.status.st_ino != b.status.st_ino ? a.status.st_ino < b.status.st_ino : a.name < b.name;
  });
  describe(directory, children);
  return children;
}

/// Whether its children are to be walked too.
bool ApplianceWalk::send(const std::string& directory, Child& child, std::uint32_t depth) {
  const struct guestfs_statns& status = child.status;
  TreeEntry entry;
  if (!entry_type(status.st_mode, entry.type)) throw CaptureError("a file of a type that there is not");
  entry.mode = static_cast<std::uint32_t>(status.st_mode) & 07777U;
  entry.uid = static_cast<std::uint32_t>(status.st_uid);
  entry.gid = static_cast<std::uint32_t>(status.st_gid);
  entry.mtime_ns = time_in_ns(status.st_mtime_sec, status.st_mtime_nsec);
  entry.inode = inode_of(status);
  entry.links = static_cast<std::uint32_t>(std::max<std::int64_t>(1, status.st_nlink));
  entry.target = std::move(child.target);
  entry.xattrs = std::move(child.xattrs);
  if (entry.type == EntryType::character_device || entry.type == EntryType::block_device) {
    entry.device_major = major(static_cast<dev_t>(status.st_rdev));
    entry.device_minor = minor(static_cast<dev_t>(status.st_rdev));
  }
  if (entry.type == EntryType::file && status.st_size > 0) {
    entry.size = static_cast<std::uint64_t>(status.st_size);
    std::uint64_t offset = 0;
    // XFS keeps no content in inodes: without blocks there is none.
    if (file_system_.type == "xfs" && status.st_blocks == 0) {
      entry.extents.clear();
    } else if ((entry.size <= appliance_.total_bytes() || !is_sparse(status)) &&
               contents_.add(file_system_, directory, child.name, entry.size, offset)) {
      entry.extents.push_back({0, offset, entry.size});
    } else {
      warn(fmt::format("{}{}: longer than all disks, left out", printable(directory), printable(child.name)));
      return false;
    }
  }
  wire::write_entry(entries_, depth, depth == 0 ? std::string_view() : child.name, entry);
  if (entries_.payload_size() >= wire::batch_bytes) flush();
  return entry.type == EntryType::directory;
}

bool ApplianceWalk::is_directory(const std::string& directory, const std::string& name) {
  const CPtr<struct guestfs_statns, guestfs_free_statns> status(guestfs_lstatns(g_, (directory + name).c_str()));
  return status && (status->st_mode & S_IFMT) == S_IFDIR;
}

/// Fills in what `path` names, and returns the directory that it lies in. No link is followed on the way.
std::string ApplianceWalk::find(std::string_view path, Child& start) {
  std::string directory = "/";
  const std::string whole = file_system_.prefix + std::string(path);
  std::string_view rest = whole;
  while (rest.ends_with('/'))
    rest.remove_suffix(1);
  if (rest.empty()) {
    start.name = ".";
  } else {
    for (std::size_t slash = rest.find('/'); slash != std::string_view::npos; slash = rest.find('/')) {
      const std::string name(rest.substr(0, slash));
      rest.remove_prefix(slash + 1);
      if (!is_directory(directory, name))
        throw NotFound(fmt::format("{} has no directory \"{}\"", printable(directory), printable(name)));
      directory += name + "/";
    }
    start.name = rest;
    const CPtr<struct guestfs_statns, guestfs_free_statns> status(
        guestfs_lstatns(g_, (directory + start.name).c_str()));
    if (!status && guestfs_last_errno(g_) == ENOENT)
      throw NotFound(fmt::format("{} has no \"{}\"", printable(directory), printable(start.name)));
  }
  describe(directory, {&start, 1});
  return directory;
}

void ApplianceWalk::run(std::string_view path, bool recursive) {
  Child start;
  std::vector<Level> levels;
  const std::string above = find(path, start);
  const std::string base = start.name == "." ? "/" : above + start.name + "/";
  if (send(above, start, 0)) levels.push_back({base, list(base), 0});
  while (!levels.empty()) {
    Level& level = levels.back();
    if (level.next == level.children.size()) {
      levels.pop_back();
      continue;
    }
    Child child = std::move(level.children[level.next++]);
    if (!send(level.directory, child, static_cast<std::uint32_t>(levels.size())) || !recursive) continue;
    if (levels.size() == wire::max_depth) throw CaptureError("directories too deep in each other");
    std::string directory = level.directory + child.name + "/";
    levels.push_back({directory, list(directory), 0});
  }
  flush();
}

}  // namespace

bool ApplianceContents::add(const ApplianceFileSystem& file_system, const std::string& directory, std::string_view name,
                            std::uint64_t size, std::uint64_t& offset) {
  std::uint64_t hash = std::hash<std::string_view>()(directory) * 31 + std::hash<std::string_view>()(name);
  hash = hash * 31 + std::hash<std::string>()(file_system.name);
  if (const auto found = known_.find(hash); found != known_.end()) {
    const File& file = files_[found->second];
    const Directory& its = directories_[file.directory];
    if (file.size == size && file.name == name && its.path == directory && its.file_system == &file_system) {
      offset = file.begin;
      return true;
    }
  }
  if (size > INT64_MAX - next_) return false;
  if (directories_.empty() || directories_.back().path != directory || directories_.back().file_system != &file_system)
    directories_.push_back({&file_system, directory});
  offset = next_;
  files_.push_back({next_, size, static_cast<std::uint32_t>(directories_.size() - 1), std::string(name)});
  known_[hash] = files_.size() - 1;
  next_ += size;
  return true;
}

void ApplianceContents::read(std::span<char> buffer, std::uint64_t offset) {
  while (!buffer.empty()) {
    auto file = std::upper_bound(files_.begin(), files_.end(), offset,
                                 [](std::uint64_t at, const File& each) { return at < each.begin; });
    if (file == files_.begin() || offset >= std::prev(file)->begin + std::prev(file)->size) {
      std::fill(buffer.begin(), buffer.end(), '\0');
      return;
    }
    --file;
    const std::uint64_t inside = offset - file->begin;
    const auto wanted = static_cast<std::size_t>(
        std::min<std::uint64_t>({buffer.size(), file->size - inside, std::uint64_t{step_bytes}}));
    const Directory& directory = directories_[file->directory];
    appliance_.mount(*directory.file_system);
    std::size_t got = 0;
    const CPtr<char, std::free> bytes(guestfs_pread(appliance_.get(), (directory.path + file->name).c_str(),
                                                    static_cast<int>(wanted), static_cast<std::int64_t>(inside), &got));
    if (!bytes) appliance_.fail(fmt::format("cannot read {}{}", printable(directory.path), printable(file->name)));
    got = std::min(got, wanted);
    // libguestfs may give less; nothing is the end.
    const std::size_t taken = got == 0 ? wanted : got;
    std::copy_n(bytes.get(), got, buffer.begin());
    std::fill(buffer.begin() + static_cast<std::ptrdiff_t>(got), buffer.begin() + static_cast<std::ptrdiff_t>(taken),
              '\0');
    buffer = buffer.subspan(taken);
    offset += taken;
  }
}

void walk_in_appliance(Appliance& appliance, ApplianceContents& contents, Parent& parent,
                       const ApplianceFileSystem& file_system, std::string_view path, bool recursive,
                       const std::function<void()>& wait) {
  appliance.mount(file_system);
  ApplianceWalk(appliance, contents, parent, file_system, wait).run(path, recursive);
}

}  // namespace stillpoint
