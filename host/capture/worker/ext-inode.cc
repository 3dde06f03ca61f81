// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/ext-inode.hh"

#include "common/errors.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/worker/ext-content.hh"
#include "host/capture/worker/posix-acl.hh"

#include <et/com_err.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <exception>
#include <string_view>
#include <utility>

namespace stillpoint {

void check_ext(errcode_t error, const char* what) {
  if (error != 0) throw CaptureError(fmt::format("{}: {}", what, error_message(error)));
}

namespace {

EntryType entry_type(unsigned mode) {
  if (LINUX_S_ISREG(mode)) return EntryType::file;
  if (LINUX_S_ISDIR(mode)) return EntryType::directory;
  if (LINUX_S_ISLNK(mode)) return EntryType::symlink;
  if (LINUX_S_ISFIFO(mode)) return EntryType::fifo;
  if (LINUX_S_ISSOCK(mode)) return EntryType::socket;
  if (LINUX_S_ISCHR(mode)) return EntryType::character_device;
  if (LINUX_S_ISBLK(mode)) return EntryType::block_device;
  throw CaptureError("an inode of an unknown type");
}

/// What ext2fs_xattrs_iterate() collects.
struct Xattrs {
  std::vector<std::pair<std::string, std::string>>* list;
  std::exception_ptr failure;
};

int collect_xattr(char* name, char* value, size_t length, void* user) noexcept {
  auto* xattrs = static_cast<Xattrs*>(user);
  try {
    const std::string_view key(name);
    // The rest of content in the inode, not an attribute to anybody else.
    if (key == "system.data") return 0;
    std::string bytes(value, length);
    if (key.starts_with("system.posix_acl_")) bytes = kernel_acl(bytes);
    if (xattrs->list->size() == wire::max_xattrs || length > wire::max_xattr || key.size() > wire::max_name)
      throw CaptureError("extended attributes beyond all limits");
    // What else lies in "system." is of file systems of other kinds.
    if (key.starts_with("system.") && !key.starts_with("system.posix_acl_")) return 0;
    xattrs->list->emplace_back(key, std::move(bytes));
    return 0;
  } catch (...) {
    xattrs->failure = std::current_exception();
    return XATTR_ABORT;
  }
}

}  // namespace

ExtInode::ExtInode(ext2_filsys fs, ext2_ino_t number) : fs_(fs), number_(number) {
  bytes_.resize(std::max<std::size_t>(EXT2_INODE_SIZE(fs->super), sizeof(ext2_inode_large)));
  check_ext(ext2fs_read_inode_full(fs, number, writable(), static_cast<int>(bytes_.size())), "cannot read an inode");
  if (base().i_links_count == 0) throw CaptureError("a name of an inode that is free");
}

bool ExtInode::has_extra(std::size_t end) const noexcept {
  const std::size_t size = EXT2_INODE_SIZE(fs_->super);
  return size > EXT2_GOOD_OLD_INODE_SIZE && size >= end &&
         EXT2_GOOD_OLD_INODE_SIZE + std::size_t{large().i_extra_isize} >= end;
}

void ExtInode::describe(std::uint64_t disk_offset, TreeEntry& entry) {
  const ext2_inode& inode = base();
  entry = TreeEntry();
  entry.type = entry_type(inode.i_mode);
  entry.mode = inode.i_mode & 07777U;
  entry.uid = inode_uid(inode);
  entry.gid = inode_gid(inode);
  entry.inode = number_;
  entry.links = inode.i_links_count;
  std::int64_t seconds = static_cast<std::int32_t>(inode.i_mtime);
  std::int64_t nanoseconds = 0;
  if (has_extra(offsetof(ext2_inode_large, i_mtime_extra) + sizeof large().i_mtime_extra)) {
    // Two bits extend the seconds, thirty are nanoseconds.
    seconds += static_cast<std::int64_t>(large().i_mtime_extra & 3U) << 32;
    nanoseconds = large().i_mtime_extra >> 2;
    if (nanoseconds > 999999999) nanoseconds = 0;
  }
  entry.mtime_ns = seconds * 1000000000 + nanoseconds;
  if (entry.type == EntryType::file) describe_file(disk_offset, entry);
  if (entry.type == EntryType::symlink) describe_target(entry);
  if (entry.type == EntryType::character_device || entry.type == EntryType::block_device) {
    const std::uint32_t old = inode.i_block[0];
    const std::uint32_t now = inode.i_block[1];
    entry.device_major = old != 0 ? old >> 8 & 0xff : now >> 8 & 0xfff;
    entry.device_minor = old != 0 ? old & 0xff : (now & 0xff) | (now >> 12 & 0xfff00);
  }
  describe_xattrs(entry);
}

void ExtInode::describe_file(std::uint64_t disk_offset, TreeEntry& entry) {
  entry.size = EXT2_I_SIZE(&base());
  if (entry.size > INT64_MAX) throw CaptureError("a file longer than any can be");
  if ((base().i_flags & EXT4_INLINE_DATA_FL) != 0) {
    entry.inline_content = inline_data();
    if (entry.inline_content.size() > entry.size) entry.inline_content.resize(static_cast<std::size_t>(entry.size));
    return;
  }
  entry.extents = ext_extents(fs_, number_, writable(), entry.size, disk_offset);
}

std::string ExtInode::inline_data() {
  std::size_t size = 0;
  check_ext(ext2fs_inline_data_size(fs_, number_, &size), "cannot measure content in an inode");
  if (size > wire::max_inline) throw CaptureError("more content in an inode than it can hold");
  std::string content(size, '\0');
  check_ext(ext2fs_inline_data_get(fs_, number_, writable(), content.data(), &size), "cannot read content in an inode");
  content.resize(std::min(size, content.size()));
  return content;
}

void ExtInode::describe_target(TreeEntry& entry) {
  const std::uint64_t size = EXT2_I_SIZE(&base());
  if (size == 0 || size > wire::max_target) throw CaptureError("a symbolic link of an impossible length");
  if ((base().i_flags & EXT4_INLINE_DATA_FL) != 0) {
    entry.target = inline_data().substr(0, static_cast<std::size_t>(size));
  } else if (ext2fs_is_fast_symlink(writable()) != 0) {
    entry.target.assign(reinterpret_cast<const char*>(base().i_block),
                        std::min<std::size_t>(size, sizeof base().i_block));
  } else {
    entry.target.resize(static_cast<std::size_t>(size));
    read_ext_file(fs_, number_, writable(), entry.target);
  }
  if (entry.target.size() != size || entry.target.find('\0') != std::string::npos)
    throw CaptureError("a symbolic link that is damaged");
}

void ExtInode::describe_xattrs(TreeEntry& entry) {
  // Most inodes have none, and asking costs more than all the rest.
  const std::size_t size = EXT2_INODE_SIZE(fs_->super);
  const std::size_t at = EXT2_GOOD_OLD_INODE_SIZE + std::size_t{large().i_extra_isize};
  std::uint32_t magic = 0;
  if (size > EXT2_GOOD_OLD_INODE_SIZE && at + sizeof magic <= size)
    std::memcpy(&magic, bytes_.data() + at, sizeof magic);
  if (magic != EXT2_EXT_ATTR_MAGIC && ext2fs_file_acl_block(fs_, writable()) == 0) return;

  ext2_xattr_handle* opened = nullptr;
  check_ext(ext2fs_xattrs_open(fs_, number_, &opened), "cannot open extended attributes");
  const auto close = [](ext2_xattr_handle* handle) { ext2fs_xattrs_close(&handle); };
  const std::unique_ptr<ext2_xattr_handle, decltype(close)> owned(opened, close);
  check_ext(ext2fs_xattrs_read(opened), "cannot read extended attributes");
  Xattrs xattrs{&entry.xattrs, nullptr};
  const errcode_t error = ext2fs_xattrs_iterate(opened, collect_xattr, &xattrs);
  if (xattrs.failure) std::rethrow_exception(xattrs.failure);
  check_ext(error, "cannot list extended attributes");
  std::sort(entry.xattrs.begin(), entry.xattrs.end());
}

}  // namespace stillpoint
