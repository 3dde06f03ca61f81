// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/ext-content.hh"

#include "common/errors.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/worker/ext-inode.hh"

#include <algorithm>
#include <exception>

namespace stillpoint {
namespace {

/// Steps through the tree of one file's extents: far beyond what the extents allowed take, and an end for a loop.
constexpr std::size_t most_steps = 4 * wire::max_extents;

/// Collects runs of blocks in ascending order, cut at the file's size.
class Extents {
 public:
  Extents(ext2_filsys fs, std::uint64_t size, std::uint64_t disk_offset)
      : block_(fs->blocksize), blocks_(ext2fs_blocks_count(fs->super)), size_(size), disk_offset_(disk_offset) {}

  void add(std::uint64_t logical, std::uint64_t physical, std::uint64_t count) {
    if (physical == 0 || count > blocks_ || physical > blocks_ - count)
      throw CaptureError("a file outside its file system");
    const std::uint64_t file_blocks = (size_ + block_ - 1) / block_;
    if (logical >= file_blocks) return;
    count = std::min(count, file_blocks - logical);
    if (ext_overlay().is_empty())
      add_run(logical, disk_offset_ + physical * block_, count);
    else
      add_replayed(logical, physical, count);
  }
  [[nodiscard]] bool is_beyond(std::uint64_t logical) const { return logical > size_ / block_; }
  std::vector<TreeEntry::FileExtent> take() { return std::move(list_); }

  std::exception_ptr failure;

 private:
  /// Blocks whose content is still in the journal only (data=journal) lie there.
  void add_replayed(std::uint64_t logical, std::uint64_t physical, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count;) {
      const std::uint64_t run = std::min(count - i, ext_overlay().distance(physical + i));
      if (run > 0) {
        add_run(logical + i, disk_offset_ + (physical + i) * block_, run);
        i += run;
        continue;
      }
      const JournalOverlay::Block* block = ext_overlay().find(physical + i);
      if (block->escaped) throw CaptureError("a file of which the journal holds what looks like its own");
      add_run(logical + i, block->disk_offset, 1);
      ++i;
    }
  }

  void add_run(std::uint64_t logical, std::uint64_t disk_offset, std::uint64_t count) {
    const TreeEntry::FileExtent extent = {logical * block_, disk_offset, count * block_};
    if (!list_.empty()) {
      TreeEntry::FileExtent& last = list_.back();
      if (extent.file_offset < last.file_offset + last.length) throw CaptureError("a file whose extents overlap");
      if (extent.file_offset == last.file_offset + last.length &&
          extent.disk_offset == last.disk_offset + last.length) {
        last.length += extent.length;
        return;
      }
    }
    if (list_.size() == wire::max_extents) throw CaptureError("a file in more than a million pieces");
    list_.push_back(extent);
  }

  std::uint64_t block_;
  std::uint64_t blocks_;
  std::uint64_t size_;
  std::uint64_t disk_offset_;
  std::vector<TreeEntry::FileExtent> list_;
};

int add_block(ext2_filsys, blk64_t* physical, e2_blkcnt_t logical, blk64_t, int, void* user) noexcept {
  auto* extents = static_cast<Extents*>(user);
  if (logical < 0 || *physical == 0) return 0;
  if (extents->is_beyond(static_cast<std::uint64_t>(logical))) return BLOCK_ABORT;
  try {
    extents->add(static_cast<std::uint64_t>(logical), *physical, 1);
    return 0;
  } catch (...) {
    extents->failure = std::current_exception();
    return BLOCK_ABORT;
  }
}

void walk_tree(ext2_filsys fs, ext2_ino_t number, ext2_inode* inode, Extents& extents) {
  ext2_extent_handle_t opened = nullptr;
  check_ext(ext2fs_extent_open2(fs, number, inode, &opened), "cannot read a file's extents");
  const CPtr<ext2_extent_handle, ext2fs_extent_free> owned(opened);
  int step = EXT2_EXTENT_ROOT;
  for (std::size_t steps = 0;; ++steps) {
    ext2fs_extent extent{};
    const errcode_t error = ext2fs_extent_get(opened, step, &extent);
    // An empty tree has no current extent.
    if (error == EXT2_ET_EXTENT_NO_NEXT || (steps == 0 && error == EXT2_ET_NO_CURRENT_NODE)) return;
    check_ext(error, "cannot read a file's extents");
    if (steps == most_steps) throw CaptureError("a file whose extents do not end");
    step = EXT2_EXTENT_NEXT;
    if ((extent.e_flags & EXT2_EXTENT_FLAGS_LEAF) == 0 || (extent.e_flags & EXT2_EXTENT_FLAGS_UNINIT) != 0) continue;
    extents.add(extent.e_lblk, extent.e_pblk, extent.e_len);
  }
}

}  // namespace

std::vector<TreeEntry::FileExtent> ext_extents(ext2_filsys fs, ext2_ino_t number, ext2_inode* inode, std::uint64_t size,
                                               std::uint64_t disk_offset) {
  Extents extents(fs, size, disk_offset);
  if ((inode->i_flags & EXT4_EXTENTS_FL) != 0) {
    walk_tree(fs, number, inode, extents);
  } else if (ext2fs_inode_has_valid_blocks2(fs, inode) != 0) {
    const errcode_t error =
        ext2fs_block_iterate3(fs, number, BLOCK_FLAG_READ_ONLY | BLOCK_FLAG_DATA_ONLY, nullptr, add_block, &extents);
    if (extents.failure) std::rethrow_exception(extents.failure);
    check_ext(error, "cannot read a file's blocks");
  }
  return extents.take();
}

void read_ext_file(ext2_filsys fs, ext2_ino_t number, ext2_inode* inode, std::string& content) {
  ext2_file_t opened = nullptr;
  check_ext(ext2fs_file_open2(fs, number, inode, 0, &opened), "cannot open a file");
  const CPtr<ext2_file, ext2fs_file_close> owned(opened);
  unsigned int got = 0;
  check_ext(ext2fs_file_read(opened, content.data(), static_cast<unsigned>(content.size()), &got),
            "cannot read a file");
  content.resize(got);
}

}  // namespace stillpoint
