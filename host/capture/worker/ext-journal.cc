// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/ext-journal.hh"

#include "common/errors.hh"
#include "common/tree-entry.hh"
#include "host/capture/worker/ext-content.hh"
#include "host/capture/worker/ext-inode.hh"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <utility>
#include <vector>

namespace stillpoint {
namespace {

constexpr std::uint32_t journal_magic = 0xc03b3998;
constexpr std::size_t most_logged = 4000000;
constexpr std::size_t journal_header = 12;

enum BlockType : std::uint32_t { descriptor = 1, commit = 2, super_1 = 3, super_2 = 4, revocation = 5 };
enum Feature : std::uint32_t { revokes = 0x1, wide = 0x2, async = 0x4, checksums_2 = 0x8, checksums_3 = 0x10 };
enum TagFlag : std::uint32_t { escape = 1, same_uuid = 2, last_tag = 8 };
constexpr std::uint8_t crc32c_type = 4;

/// Numbers of a journal are big-endian.
std::uint32_t big(std::span<const std::byte> bytes, std::size_t offset, std::size_t count = 4) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < count; ++i)
    value = value << 8 | static_cast<std::uint8_t>(bytes[offset + i]);
  return value;
}

std::uint32_t crc32c_of(std::uint32_t crc, std::span<const std::byte> bytes) {
  return ext2fs_crc32c_le(crc, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
}

[[noreturn]] void refuse_journal() {
  throw CaptureError("the file system's journal must be replayed, and is damaged");
}

/// A block that a transaction wrote.
struct Logged {
  std::uint64_t block = 0;     ///< of the file system
  std::uint32_t place = 0;     ///< in the journal
  std::uint32_t sequence = 0;  ///< of the transaction
  std::uint32_t checksum = 0;
  bool escaped = false;
};

class Journal {
 public:
  Journal(BlockService& blocks, ext2_filsys fs, std::uint64_t offset) : blocks_(blocks), fs_(fs) {
    const ext2_ino_t number = fs->super->s_journal_inum;
    if (number == 0) throw CaptureError("the file system's journal must be replayed, and lies on another disk");
    ext2_inode inode{};
    check_ext(ext2fs_read_inode(fs, number, &inode), "cannot read the journal's inode");
    const std::uint64_t size = EXT2_I_SIZE(&inode);
    extents_ = ext_extents(fs, number, &inode, size, offset);
    block_.resize(fs->blocksize);
    read(0);
    read_super(size / fs->blocksize);
  }

  /// In the order in which they were written; without what a later transaction has revoked.
  std::vector<Logged> scan();
  [[nodiscard]] std::uint64_t disk_offset(std::uint32_t place) const;
  void verify(const Logged& logged);

 private:
  [[nodiscard]] bool has(Feature feature) const { return (features_ & feature) != 0; }
  [[nodiscard]] bool has_checksums() const { return has(checksums_2) || has(checksums_3); }
  void read_super(std::uint64_t blocks);
  void read(std::uint32_t place);
  [[nodiscard]] std::uint32_t after(std::uint32_t place) const { return place + 1 >= end_ ? first_ : place + 1; }
  [[nodiscard]] bool is_whole(std::size_t checksum_at);
  void take_tags(std::uint32_t& place);
  void take_revocations();

  BlockService& blocks_;
  ext2_filsys fs_;
  std::vector<TreeEntry::FileExtent> extents_;
  std::vector<std::byte> block_;  ///< the one that was read last
  std::uint32_t features_ = 0;
  std::uint32_t first_ = 0;
  std::uint32_t end_ = 0;
  std::uint32_t start_ = 0;
  std::uint32_t sequence_ = 0;
  std::uint32_t seed_ = 0;
  std::size_t seen_ = 0;                ///< blocks of the log, which has an end
  std::vector<Logged> logged_;          ///< of the transaction that is being read
  std::vector<std::uint64_t> revoked_;  ///< by it
};

std::uint64_t Journal::disk_offset(std::uint32_t place) const {
  const std::uint64_t at = std::uint64_t{place} * fs_->blocksize;
  const auto next =
      std::upper_bound(extents_.begin(), extents_.end(), at,
                       [](std::uint64_t offset, const auto& extent) { return offset < extent.file_offset; });
  if (next == extents_.begin()) refuse_journal();
  const TreeEntry::FileExtent& extent = *std::prev(next);
  if (at - extent.file_offset >= extent.length) refuse_journal();
  return extent.disk_offset + (at - extent.file_offset);
}

void Journal::read(std::uint32_t place) {
  if (!blocks_.read(block_, disk_offset(place))) refuse_journal();
}

void Journal::read_super(std::uint64_t blocks) {
  const std::uint32_t type = big(block_, 4);
  if (big(block_, 0) != journal_magic || (type != super_1 && type != super_2)) refuse_journal();
  end_ = big(block_, 16);
  first_ = big(block_, 20);
  sequence_ = big(block_, 24);
  start_ = big(block_, 28);
  if (big(block_, 12) != fs_->blocksize || end_ > blocks || first_ == 0 || first_ >= end_ || start_ >= end_)
    refuse_journal();
  if (type == super_1) return;
  features_ = big(block_, 40);
  constexpr std::uint32_t known = revokes | wide | async | checksums_2 | checksums_3;
  if ((features_ & ~known) != 0 || (has(async) && !has_checksums()) || (has(checksums_2) && has(checksums_3)) ||
      (has_checksums() && block_[80] != std::byte{crc32c_type}))
    throw CaptureError("the file system's journal must be replayed, and is of a kind that only a kernel knows");
  if (has_checksums()) seed_ = crc32c_of(~0U, std::span(block_).subspan(48, 16));
}

/// Whether a block's checksum is right, which lies in the block itself.
bool Journal::is_whole(std::size_t checksum_at) {
  if (!has_checksums()) return true;
  const std::uint32_t stored = big(block_, checksum_at);
  std::fill_n(block_.begin() + static_cast<std::ptrdiff_t>(checksum_at), 4, std::byte{0});
  return crc32c_of(seed_, block_) == stored;
}

/// The blocks that follow a descriptor, up to the last of which `place` moves.
void Journal::take_tags(std::uint32_t& place) {
  const std::size_t size = has(checksums_3) ? 16 : (has(wide) ? 12U : 8U) + (has(checksums_2) ? 2U : 0U);
  const std::size_t end = block_.size() - (has_checksums() ? 4 : 0);
  for (std::size_t at = journal_header; at + size <= end;) {
    const std::uint32_t flags = has(checksums_3) ? big(block_, at + 4) : big(block_, at + 6, 2);
    std::uint64_t block = big(block_, at);
    if (has(wide)) block |= std::uint64_t{big(block_, at + 8)} << 32;
    place = after(place);
    if (++seen_ > end_ || block >= ext2fs_blocks_count(fs_->super) || logged_.size() == most_logged) refuse_journal();
    const std::uint32_t checksum = has(checksums_3) ? big(block_, at + 12) : big(block_, at + 4, 2);
    logged_.push_back({block, place, sequence_, checksum, (flags & escape) != 0});
    if ((flags & last_tag) != 0) return;
    at += size + ((flags & same_uuid) != 0 ? 0 : 16);
  }
}

void Journal::take_revocations() {
  const std::size_t size = has(wide) ? 8 : 4;
  const std::size_t end = std::min<std::size_t>(big(block_, 12), block_.size() - (has_checksums() ? 4 : 0));
  for (std::size_t at = 16; at + size <= end; at += size) {
    if (revoked_.size() == most_logged) refuse_journal();
    revoked_.push_back(size == 4 ? big(block_, at) : std::uint64_t{big(block_, at)} << 32 | big(block_, at + 4));
  }
}

std::vector<Logged> Journal::scan() {
  std::vector<Logged> committed;
  std::unordered_map<std::uint64_t, std::uint32_t> revocations;  // the last transaction that revoked the block
  for (std::uint32_t place = start_; start_ != 0; place = after(place)) {
    if (++seen_ > end_) break;
    read(place);
    if (big(block_, 0) != journal_magic || big(block_, 8) != sequence_) break;
    const std::uint32_t type = big(block_, 4);
    if (type == descriptor) {
      if (!is_whole(block_.size() - 4)) break;
      take_tags(place);
    } else if (type == revocation) {
      if (!is_whole(block_.size() - 4)) break;
      take_revocations();
    } else if (type == commit) {
      if (!is_whole(16)) break;
      if (committed.size() + logged_.size() > most_logged || revocations.size() + revoked_.size() > most_logged)
        refuse_journal();
      committed.insert(committed.end(), logged_.begin(), logged_.end());
      for (const std::uint64_t block : revoked_)
        revocations[block] = sequence_;
      logged_.clear();
      revoked_.clear();
      ++sequence_;
    } else {
      break;
    }
  }
  std::erase_if(committed, [&revocations](const Logged& logged) {
    const auto found = revocations.find(logged.block);
    // Sequence numbers may wrap around.
    return found != revocations.end() && static_cast<std::int32_t>(found->second - logged.sequence) >= 0;
  });
  return committed;
}

void Journal::verify(const Logged& logged) {
  if (!has_checksums()) return;
  read(logged.place);
  std::array<std::byte, 4> sequence{};
  for (std::size_t i = 0; i < 4; ++i)
    sequence[i] = static_cast<std::byte>(logged.sequence >> (24 - 8 * i));
  const std::uint32_t sum = crc32c_of(crc32c_of(seed_, sequence), block_);
  if ((has(checksums_3) ? sum : sum & 0xffff) != logged.checksum) refuse_journal();
}

}  // namespace

JournalOverlay JournalOverlay::read(BlockService& blocks, ext2_filsys fs, std::uint64_t offset) {
  JournalOverlay overlay;
  overlay.block_bytes_ = fs->blocksize;
  Journal journal(blocks, fs, offset);
  std::map<std::uint64_t, Logged> newest;
  for (const Logged& logged : journal.scan())
    newest[logged.block] = logged;
  for (const auto& [block, logged] : newest) {
    journal.verify(logged);
    overlay.blocks_[block] = {journal.disk_offset(logged.place), logged.escaped};
  }
  return overlay;
}

const JournalOverlay::Block* JournalOverlay::find(std::uint64_t block) const {
  const auto found = blocks_.find(block);
  return found == blocks_.end() ? nullptr : &found->second;
}

std::uint64_t JournalOverlay::distance(std::uint64_t block) const {
  const auto next = blocks_.lower_bound(block);
  return next == blocks_.end() ? UINT64_MAX : next->first - block;
}

bool JournalOverlay::apply(BlockService& blocks, std::span<std::byte> bytes, std::uint64_t begin) const {
  if (blocks_.empty() || bytes.empty()) return true;
  const std::uint64_t end = begin + bytes.size();
  for (auto each = blocks_.lower_bound(begin / block_bytes_); each != blocks_.end(); ++each) {
    const std::uint64_t block_begin = each->first * block_bytes_;
    if (block_begin >= end) break;
    const std::uint64_t from = std::max(begin, block_begin);
    const std::uint64_t to = std::min(end, block_begin + block_bytes_);
    const auto part = bytes.subspan(from - begin, to - from);
    if (!blocks.read(part, each->second.disk_offset + (from - block_begin))) return false;
    if (!each->second.escaped) continue;
    for (std::uint64_t at = from; at < std::min(to, block_begin + 4); ++at)
      part[at - from] = static_cast<std::byte>(journal_magic >> (24 - 8 * (at - block_begin)));
  }
  return true;
}

}  // namespace stillpoint
