// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/tree-entry.hh"
#include "host/capture/worker/ext-io.hh"

#include <string>
#include <vector>

namespace stillpoint {

/// Where a file's content lies on the disk; what was allocated and never written is a hole. Throws CaptureError.
[[nodiscard]] std::vector<TreeEntry::FileExtent> ext_extents(ext2_filsys fs, ext2_ino_t number, ext2_inode* inode,
                                                             std::uint64_t size, std::uint64_t disk_offset);

/// Fills `content` from the file's begin. Throws CaptureError.
void read_ext_file(ext2_filsys fs, ext2_ino_t number, ext2_inode* inode, std::string& content);

}  // namespace stillpoint
