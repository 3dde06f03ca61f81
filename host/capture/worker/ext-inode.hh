// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/tree-entry.hh"
#include "host/capture/worker/ext-io.hh"

#include <string>
#include <vector>

namespace stillpoint {

/// An inode as stored, with what lies behind its first 128 bytes.
class ExtInode {
 public:
  /// Throws CaptureError.
  ExtInode(ext2_filsys fs, ext2_ino_t number);

  [[nodiscard]] const ext2_inode& base() const noexcept { return *reinterpret_cast<const ext2_inode*>(bytes_.data()); }
  [[nodiscard]] const ext2_inode_large& large() const noexcept {
    return *reinterpret_cast<const ext2_inode_large*>(bytes_.data());
  }
  [[nodiscard]] bool is_directory() const noexcept { return LINUX_S_ISDIR(base().i_mode); }
  [[nodiscard]] bool is_symlink() const noexcept { return LINUX_S_ISLNK(base().i_mode); }
  [[nodiscard]] bool is_encrypted() const noexcept { return (base().i_flags & EXT4_ENCRYPT_FL) != 0; }
  [[nodiscard]] ext2_ino_t number() const noexcept { return number_; }

  /// All but the path. `disk_offset` is where the file system begins. Throws CaptureError.
  void describe(std::uint64_t disk_offset, TreeEntry& entry);

 private:
  ext2_inode* writable() noexcept { return reinterpret_cast<ext2_inode*>(bytes_.data()); }
  [[nodiscard]] bool has_extra(std::size_t end) const noexcept;
  void describe_file(std::uint64_t disk_offset, TreeEntry& entry);
  void describe_target(TreeEntry& entry);
  void describe_xattrs(TreeEntry& entry);
  [[nodiscard]] std::string inline_data();

  ext2_filsys fs_;
  ext2_ino_t number_;
  std::vector<char> bytes_;
};

/// Throws CaptureError with libext2fs's words when `error` is one.
void check_ext(errcode_t error, const char* what);

}  // namespace stillpoint
