// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/worker/block-service.hh"

#include <ext2fs/ext2fs.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>

namespace stillpoint {

/// What replaying a journal would write, without writing it: blocks of the file system whose content is to be taken
/// from the journal.
class JournalOverlay {
 public:
  struct Block {
    std::uint64_t disk_offset = 0;  ///< bytes from the start of the disk
    bool escaped = false;           ///< its first four bytes are the journal's magic number, and zeros in the journal
  };

  /// Reads the journal of that file system, which lies at `offset` of the disk: the transactions that were committed,
  /// up to the first that was not. Throws CaptureError where the journal is damaged, lies elsewhere, or is of a kind
  /// that this does not know.
  [[nodiscard]] static JournalOverlay read(BlockService& blocks, ext2_filsys fs, std::uint64_t offset);

  [[nodiscard]] bool is_empty() const noexcept { return blocks_.empty(); }
  /// By number; nullptr for one that is not in it.
  [[nodiscard]] const Block* find(std::uint64_t block) const;

  /// How many blocks from that one on are not in it.
  [[nodiscard]] std::uint64_t distance(std::uint64_t block) const;

  /// Puts what belongs there over `bytes`, which were read from `begin` of the file system. False where the disk cannot
  /// be read.
  [[nodiscard]] bool apply(BlockService& blocks, std::span<std::byte> bytes, std::uint64_t begin) const;

 private:
  std::uint32_t block_bytes_ = 0;
  std::map<std::uint64_t, Block> blocks_;
};

}  // namespace stillpoint
