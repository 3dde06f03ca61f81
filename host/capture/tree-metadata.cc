// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-metadata.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "host/capture/fake-super.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace stillpoint {
namespace {

constexpr std::size_t most_kept_warnings = 100;

std::array<timespec, 2> times(std::int64_t mtime_ns) {
  std::int64_t seconds = mtime_ns / 1000000000;
  std::int64_t nanoseconds = mtime_ns % 1000000000;
  if (nanoseconds < 0) {
    --seconds;
    nanoseconds += 1000000000;
  }
  return {timespec{0, UTIME_OMIT}, timespec{seconds, nanoseconds}};
}

/// Not a label that the target's kernel gives to every file where the guest's have none.
bool is_ours(std::string_view name, const std::vector<std::pair<std::string, std::string>>& wanted) {
  return name != "security.selinux" ||
         std::any_of(wanted.begin(), wanted.end(), [name](const auto& xattr) { return xattr.first == name; });
}

/// Whether `path` has these attributes and no other.
bool has_xattrs(const char* path, const std::vector<std::pair<std::string, std::string>>& wanted) {
  std::array<char, 65536> names;  // NOLINT: filled by the call
  const ssize_t length = ::llistxattr(path, names.data(), names.size());
  if (length < 0) return errno == EOPNOTSUPP && wanted.empty();
  std::size_t count = 0;
  for (const char* name = names.data(); name < names.data() + length; name += std::strlen(name) + 1)
    if (is_ours(name, wanted)) ++count;
  if (count != wanted.size()) return false;
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& xattr) {
    std::string value(xattr.second.size() + 1, '\0');
    const ssize_t n = ::lgetxattr(path, xattr.first.c_str(), value.data(), value.size());
    if (n < 0) return false;
    value.resize(static_cast<std::size_t>(n));
    return value == xattr.second;
  });
}

/// Names a directory's entry for calls that know no directory descriptors.
std::string by_descriptor(int directory, const std::string& name) {
  return fmt::format("/proc/self/fd/{}/{}", directory, name);
}

bool has_time(const struct stat& status, std::int64_t mtime_ns) {
  const timespec when = times(mtime_ns)[1];
  return status.st_mtim.tv_sec == when.tv_sec && status.st_mtim.tv_nsec == when.tv_nsec;
}

bool has_content(int directory, const std::string& name, std::string_view wanted) {
  const UniqueFd fd(::openat(directory, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  std::array<char, 4096> bytes;  // NOLINT: filled by the call
  const ssize_t n = fd ? ::pread(fd.get(), bytes.data(), bytes.size(), 0) : -1;
  return n >= 0 && std::string_view(bytes.data(), static_cast<std::size_t>(n)) == wanted;
}

/// Whether the target lets us give the directory away.
bool can_give_away(int directory) {
  struct stat status {};
  if (::geteuid() != 0 || ::fstat(directory, &status) != 0) return false;
  return ::fchown(directory, status.st_uid + 1, status.st_gid) == 0 &&
         ::fchown(directory, status.st_uid, status.st_gid) == 0;
}

bool can_have_user_attributes(int directory) {
  static constexpr const char* name = "user.rsync.%stat";
  return ::fsetxattr(directory, name, "", 0, 0) == 0 && ::fremovexattr(directory, name) == 0;
}

bool finds_other_case(int directory) {
  if (::mkdirat(directory, "case", 0700) != 0) throw_storage_errno("cannot make a directory in a new tree", errno);
  struct stat status {};
  const bool found = ::fstatat(directory, "CASE", &status, AT_SYMLINK_NOFOLLOW) == 0;
  ::unlinkat(directory, "case", AT_REMOVEDIR);
  return found;
}

bool has_space(int fd) {
  constexpr unsigned long few_blocks = 256;
  struct statvfs status {};
  return ::fstatvfs(fd, &status) == 0 && status.f_bavail > few_blocks && (status.f_files == 0 || status.f_favail > 0);
}

bool is_refusal(int error) {
  return error == EOPNOTSUPP || error == EPERM || error == EACCES || error == EINVAL;
}

}  // namespace

unsigned type_bits(EntryType type) noexcept {
  switch (type) {
    case EntryType::directory:
      return S_IFDIR;
    case EntryType::symlink:
      return S_IFLNK;
    case EntryType::fifo:
      return S_IFIFO;
    case EntryType::socket:
      return S_IFSOCK;
    case EntryType::character_device:
      return S_IFCHR;
    case EntryType::block_device:
      return S_IFBLK;
    default:
      return S_IFREG;
  }
}

MetadataKeeper::MetadataKeeper(int directory, TreeOwners owners)
    : owns_(can_give_away(directory)), ignores_case_(finds_other_case(directory)) {
  if (owns_) return;
  fake_super_ = owners == TreeOwners::as_attributes && can_have_user_attributes(directory);
  if (fake_super_)
    warn("owner", "owners, devices and links are kept in attributes: copy it back with rsync --fake-super on its side");
  else
    warn("owner", ::geteuid() == 0 ? "owners and groups are not kept: the target refuses them"
                                   : "owners and groups are not kept: only root can set them");
}

void MetadataKeeper::warn(std::string_view kind, std::string text) {
  const std::lock_guard lock(mutex_);
  if (warnings_.size() >= most_kept_warnings || std::find(kinds_.begin(), kinds_.end(), kind) != kinds_.end()) return;
  kinds_.emplace_back(kind);
  warnings_.push_back(std::move(text));
}

void MetadataKeeper::warn_of_case(const std::string& path, const std::string& made) {
  warn(path, fmt::format("{} is {} there: the target takes it for another name in its directory", path, made));
}

std::uint32_t MetadataKeeper::mode_to_set(std::uint32_t mode, bool owned) const noexcept {
  // Under another owner these bits would give away other rights.
  return owned ? mode : mode & ~static_cast<std::uint32_t>(S_ISUID | S_ISGID);
}

void MetadataKeeper::set_attribute(int fd, const std::string& path, const std::string& name, const std::string& value) {
  if (::fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) == 0) return;
  // A value may be longer than this target's can be; ext4 says then that there is no space.
  const int error = errno;
  if (!is_refusal(error) && error != E2BIG && error != ERANGE && !(error == ENOSPC && has_space(fd)))
    throw_storage_errno(fmt::format("cannot set {} of {}", name, path), error);
  warn(name, fmt::format("{}: the target refuses {}: {}", path, name, std::strerror(error)));
}

void MetadataKeeper::apply_fake_super(int fd, const Metadata& metadata) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) throw_storage_errno(fmt::format("cannot look at {}", metadata.path), errno);
  for (const auto& [name, value] : fake_super::attributes(metadata, status.st_uid, status.st_gid))
    set_attribute(fd, metadata.path, name, value);
  if (::fchmod(fd, fake_super::mode(metadata)) != 0)
    throw_storage_errno(fmt::format("cannot set the mode of {}", metadata.path), errno);
}

void MetadataKeeper::apply(int fd, const Metadata& metadata) {
  if (fake_super_) {
    apply_fake_super(fd, metadata);
  } else {
    bool owned = owns_;
    if (owns_ && ::fchown(fd, metadata.uid, metadata.gid) != 0) {
      if (!is_refusal(errno)) throw_storage_errno(fmt::format("cannot set the owner of {}", metadata.path), errno);
      warn("owner", fmt::format("{}: the target refuses owners: {}", metadata.path, std::strerror(errno)));
      owned = false;
    }
    for (const auto& [name, value] : metadata.xattrs)
      set_attribute(fd, metadata.path, name, value);
    if (::fchmod(fd, mode_to_set(metadata.mode, owned)) != 0)
      throw_storage_errno(fmt::format("cannot set the mode of {}", metadata.path), errno);
  }
  const auto when = times(metadata.mtime_ns);
  if (::futimens(fd, when.data()) != 0)
    throw_storage_errno(fmt::format("cannot set the time of {}", metadata.path), errno);
}

void MetadataKeeper::apply(int directory, const std::string& name, const TreeEntry& entry) {
  bool owned = owns_;
  if (owns_ && ::fchownat(directory, name.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) != 0) {
    if (!is_refusal(errno)) throw_storage_errno(fmt::format("cannot set the owner of {}", entry.path), errno);
    warn("owner", fmt::format("{}: the target refuses owners: {}", entry.path, std::strerror(errno)));
    owned = false;
  }
  for (const auto& [key, value] : entry.xattrs) {
    if (::lsetxattr(by_descriptor(directory, name).c_str(), key.c_str(), value.data(), value.size(), 0) == 0) continue;
    if (!is_refusal(errno)) throw_storage_errno(fmt::format("cannot set {} of {}", key, entry.path), errno);
    warn(key, fmt::format("{}: the target refuses {}: {}", entry.path, key, std::strerror(errno)));
  }
  if (entry.type != EntryType::symlink && ::fchmodat(directory, name.c_str(), mode_to_set(entry.mode, owned), 0) != 0)
    throw_storage_errno(fmt::format("cannot set the mode of {}", entry.path), errno);
  const auto when = times(entry.mtime_ns);
  if (::utimensat(directory, name.c_str(), when.data(), AT_SYMLINK_NOFOLLOW) != 0)
    throw_storage_errno(fmt::format("cannot set the time of {}", entry.path), errno);
}

bool MetadataKeeper::is_same_fake(int directory, const std::string& name, const TreeEntry& entry,
                                  const struct stat& status) const {
  const Metadata metadata(entry);
  if (!S_ISREG(status.st_mode) || (status.st_mode & 07777) != fake_super::mode(metadata)) return false;
  const std::uint64_t size = entry.type == EntryType::symlink ? entry.target.size() : entry.size;
  if (static_cast<std::uint64_t>(status.st_size) != size) return false;
  if (entry.type == EntryType::symlink && !has_content(directory, name, entry.target)) return false;
  return has_xattrs(by_descriptor(directory, name).c_str(),
                    fake_super::attributes(metadata, status.st_uid, status.st_gid));
}

bool MetadataKeeper::is_same(int directory, const std::string& name, const TreeEntry& entry) const {
  struct stat status {};
  if (::fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return false;
  if (!has_time(status, entry.mtime_ns)) return false;
  if (fake_super_) return is_same_fake(directory, name, entry, status);
  if ((status.st_mode & S_IFMT) != type_bits(entry.type)) return false;
  if (owns_ && (status.st_uid != entry.uid || status.st_gid != entry.gid)) return false;
  if (entry.type != EntryType::symlink && (status.st_mode & 07777) != mode_to_set(entry.mode, owns_)) return false;
  switch (entry.type) {
    case EntryType::file:
      if (static_cast<std::uint64_t>(status.st_size) != entry.size) return false;
      break;
    case EntryType::symlink: {
      std::array<char, 4096> target;  // NOLINT: filled by the call
      const ssize_t n = ::readlinkat(directory, name.c_str(), target.data(), target.size());
      if (n < 0 || std::string_view(target.data(), static_cast<std::size_t>(n)) != entry.target) return false;
      break;
    }
    case EntryType::character_device:
    case EntryType::block_device:
      if (status.st_rdev != ::makedev(entry.device_major, entry.device_minor)) return false;
      break;
    default:
      break;
  }
  return has_xattrs(by_descriptor(directory, name).c_str(), entry.xattrs);
}

}  // namespace stillpoint
