// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/tree-entry.hh"

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <string_view>

/// What a kernel says of inodes of a file system that it has mounted, made into what entries have.
namespace stillpoint {

/// Subvolumes count their inodes each for itself; what is above names the subvolume.
inline constexpr unsigned inode_bits = 48;
inline constexpr std::size_t most_children = 4000000;  ///< of one directory

/// False for a type that there is not.
inline bool entry_type(std::int64_t mode, EntryType& type) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      type = EntryType::file;
      return true;
    case S_IFDIR:
      type = EntryType::directory;
      return true;
    case S_IFLNK:
      type = EntryType::symlink;
      return true;
    case S_IFIFO:
      type = EntryType::fifo;
      return true;
    case S_IFSOCK:
      type = EntryType::socket;
      return true;
    case S_IFCHR:
      type = EntryType::character_device;
      return true;
    case S_IFBLK:
      type = EntryType::block_device;
      return true;
    default:
      return false;
  }
}

/// XFS shows its ACLs a second time, as it keeps them.
inline bool is_kept_xattr(std::string_view name) {
  if (name.starts_with("trusted.SGI_ACL_")) return false;
  return name.starts_with("user.") || name.starts_with("trusted.") || name.starts_with("security.") ||
         name.starts_with("system.posix_acl_");
}

/// Some file systems have more seconds than nanoseconds can count.
inline std::int64_t time_in_ns(std::int64_t seconds, std::int64_t nanoseconds) {
  constexpr std::int64_t furthest = 9000000000;
  return std::clamp(seconds, -furthest, furthest) * 1000000000 + std::clamp<std::int64_t>(nanoseconds, 0, 999999999);
}

}  // namespace stillpoint
