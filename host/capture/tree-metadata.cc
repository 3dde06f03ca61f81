// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-metadata.hh"

#include "common/errors.hh"
#include "common/file.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
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

constexpr std::size_t most_warnings = 100;

std::array<timespec, 2> times(std::int64_t mtime_ns) {
  std::int64_t seconds = mtime_ns / 1000000000;
  std::int64_t nanoseconds = mtime_ns % 1000000000;
  if (nanoseconds < 0) {
    --seconds;
    nanoseconds += 1000000000;
  }
  return {timespec{0, UTIME_OMIT}, timespec{seconds, nanoseconds}};
}

/// The attributes that are compared and kept; what the target's kernel adds of its own is not ours.
bool has_xattrs(const std::string& path, const TreeEntry& entry) {
  std::array<char, 65536> names;  // NOLINT: filled by the call
  const ssize_t length = ::llistxattr(path.c_str(), names.data(), names.size());
  if (length < 0) return errno == EOPNOTSUPP && entry.xattrs.empty();
  std::size_t count = 0;
  for (const char* name = names.data(); name < names.data() + length; name += std::strlen(name) + 1)
    ++count;
  if (count != entry.xattrs.size()) return false;
  return std::all_of(entry.xattrs.begin(), entry.xattrs.end(), [&](const auto& xattr) {
    std::string value(xattr.second.size() + 1, '\0');
    const ssize_t n = ::lgetxattr(path.c_str(), xattr.first.c_str(), value.data(), value.size());
    if (n < 0) return false;
    value.resize(static_cast<std::size_t>(n));
    return value == xattr.second;
  });
}

/// Names a directory's entry for calls that know no directory descriptors.
std::string by_descriptor(int directory, const std::string& name) {
  return fmt::format("/proc/self/fd/{}/{}", directory, name);
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

MetadataKeeper::MetadataKeeper() : is_root_(::geteuid() == 0) {
  if (!is_root_) warn("owner", "owners and groups are not kept: only root can set them");
}

void MetadataKeeper::warn(std::string_view kind, std::string text) {
  if (warnings_.size() >= most_warnings || std::find(kinds_.begin(), kinds_.end(), kind) != kinds_.end()) return;
  kinds_.emplace_back(kind);
  warnings_.push_back(std::move(text));
}

std::uint32_t MetadataKeeper::mode_to_set(std::uint32_t mode, bool owned) const noexcept {
  // Under another owner these bits would give away other rights.
  return owned ? mode : mode & ~static_cast<std::uint32_t>(S_ISUID | S_ISGID);
}

void MetadataKeeper::apply(int fd, const Metadata& metadata) {
  bool owned = is_root_;
  if (is_root_ && ::fchown(fd, metadata.uid, metadata.gid) != 0) {
    if (!is_refusal(errno)) throw_storage_errno(fmt::format("cannot set the owner of {}", metadata.path), errno);
    warn("owner", fmt::format("{}: the target refuses owners: {}", metadata.path, std::strerror(errno)));
    owned = false;
  }
  for (const auto& [name, value] : metadata.xattrs) {
    if (::fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) == 0) continue;
    if (!is_refusal(errno)) throw_storage_errno(fmt::format("cannot set {} of {}", name, metadata.path), errno);
    warn(name, fmt::format("{}: the target refuses {}: {}", metadata.path, name, std::strerror(errno)));
  }
  if (::fchmod(fd, mode_to_set(metadata.mode, owned)) != 0)
    throw_storage_errno(fmt::format("cannot set the mode of {}", metadata.path), errno);
  const auto when = times(metadata.mtime_ns);
  if (::futimens(fd, when.data()) != 0)
    throw_storage_errno(fmt::format("cannot set the time of {}", metadata.path), errno);
}

void MetadataKeeper::apply(int directory, const std::string& name, const TreeEntry& entry) {
  bool owned = is_root_;
  if (is_root_ && ::fchownat(directory, name.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) != 0) {
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

bool MetadataKeeper::is_same(int directory, const std::string& name, const TreeEntry& entry) const {
  struct stat status {};
  if (::fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) return false;
  if ((status.st_mode & S_IFMT) != type_bits(entry.type)) return false;
  const auto when = times(entry.mtime_ns)[1];
  if (status.st_mtim.tv_sec != when.tv_sec || status.st_mtim.tv_nsec != when.tv_nsec) return false;
  if (is_root_ && (status.st_uid != entry.uid || status.st_gid != entry.gid)) return false;
  if (entry.type != EntryType::symlink && (status.st_mode & 07777) != mode_to_set(entry.mode, is_root_)) return false;
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
  return has_xattrs(by_descriptor(directory, name), entry);
}

}  // namespace stillpoint
