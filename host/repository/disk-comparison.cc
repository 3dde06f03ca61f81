// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/disk-comparison.hh"

#include "common/direct-file.hh"
#include "host/repository/disk-tree.hh"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace stillpoint {

namespace {

constexpr std::size_t chunks_at_once = 32;
constexpr std::uint64_t copy_window = std::uint64_t{1} << 30;

/// Joins neighbours.
class ExtentJoiner {
 public:
  explicit ExtentJoiner(const std::function<void(const Extent&)>& consume) : consume_(consume) {}

  void add(std::uint64_t offset, std::uint64_t length, bool data) {
    if (length == 0) return;
    if (last_.length > 0 && last_.data == data && last_.offset + last_.length == offset) {
      last_.length += length;
      return;
    }
    finish();
    last_ = {offset, length, data};
  }
  void finish() {
    if (last_.length > 0) consume_(last_);
    last_ = {0, 0, false};
  }

 private:
  const std::function<void(const Extent&)>& consume_;
  Extent last_{0, 0, false};
};

class Comparison {
 public:
  Comparison(ChunkStore& chunks, const DiskMap& from, const DiskMap& to,
             const std::function<void(const Extent&)>& consume)
      : chunk_bytes_(chunks.chunk_bytes()), from_(chunks, from), to_(chunks, to), joiner_(consume) {}

  void run() {
    // The higher tree's nodes above the other's root stand beside nothing.
    const unsigned level = std::min(from_.shape().height(), to_.shape().height());
    const std::uint64_t span = DiskShape::span(level);
    for (std::uint64_t index = 0; index * span < to_.shape().chunks(); ++index)
      compare(level, index, id_of(from_, level, index), to_.node_id(level, index));
    joiner_.finish();
  }

 private:
  static ChunkId id_of(DiskTree& tree, unsigned level, std::uint64_t index) {
    return index * DiskShape::span(level) < tree.shape().chunks() ? tree.node_id(level, index) : ChunkId{};
  }

  void add(std::uint64_t begin, std::uint64_t end, bool data) {
    begin = std::min(begin, to_.shape().size());
    joiner_.add(begin, std::min(end, to_.shape().size()) - begin, data);
  }

  void compare(unsigned level, std::uint64_t index, const ChunkId& before, const ChunkId& now) {
    if (before == now) return;
    const std::uint64_t below = DiskShape::span(level - 1);
    const DiskTree::Node old_node = is_zero_chunk(before) ? nullptr : from_.node(before, level, index);
    const DiskTree::Node new_node = is_zero_chunk(now) ? nullptr : to_.node(now, level, index);
    const std::uint64_t children = to_.shape().children(level, index);
    for (std::uint64_t place = 0; place < children; ++place) {
      const ChunkId old_id = old_node ? old_node->ids[place] : ChunkId{};
      const ChunkId new_id = new_node ? new_node->ids[place] : ChunkId{};
      const std::uint64_t child = index * map_fanout + place;
      if (level == 1)
        compare_chunk(child, old_id, new_id, old_node ? old_node->patch_at(place) : nullptr,
                      new_node ? new_node->patch_at(place) : nullptr);
      else if (old_id != new_id && is_zero_chunk(new_id))
        add(child * below * chunk_bytes_, (child + 1) * below * chunk_bytes_, false);
      else
        compare(level - 1, child, old_id, new_id);
    }
  }

  void compare_chunk(std::uint64_t chunk, const ChunkId& before, const ChunkId& now, const DiskPatch* old_patch,
                     const DiskPatch* new_patch) {
    const std::uint64_t begin = chunk * chunk_bytes_;
    // Of another length, it is another chunk.
    const bool same =
        before == now && (from_.shape().chunk_length(chunk) == to_.shape().chunk_length(chunk) || is_zero_chunk(now));
    if (!same) {
      add(begin, begin + chunk_bytes_, new_patch != nullptr || !is_zero_chunk(now));
      return;
    }
    const std::uint64_t old_blocks = old_patch == nullptr ? 0 : old_patch->blocks;
    const std::uint64_t new_blocks = new_patch == nullptr ? 0 : new_patch->blocks;
    if (old_blocks == new_blocks && (old_blocks == 0 || old_patch->id == new_patch->id)) return;
    for (std::uint64_t blocks = old_blocks | new_blocks; blocks != 0; blocks &= blocks - 1) {
      const std::uint64_t at = begin + static_cast<std::uint64_t>(std::countr_zero(blocks)) * part_block_bytes;
      add(at, at + part_block_bytes, true);
    }
  }

  std::uint64_t chunk_bytes_;
  DiskTree from_;
  DiskTree to_;
  ExtentJoiner joiner_;
};

class CopyCheck {
 public:
  CopyCheck(ChunkStore& chunks, const DiskMap& map, BlockReader& copy, CaptureProgress& progress,
            const std::function<void(const Extent&)>& consume)
      : chunks_(chunks),
        tree_(chunks, map),
        copy_(copy),
        progress_(progress),
        joiner_(consume),
        storage_(allocate_aligned(chunks_at_once * chunks.chunk_bytes())) {}

  void run() {
    const DiskShape& shape = tree_.shape();
    if (copy_.size() != shape.size()) throw std::logic_error("a copy of another size");
    for (std::uint64_t at = 0; at < shape.size();) {
      // Chunks of which the copy has something, or is to have something.
      const std::vector<Extent> window = copy_.extents(at, std::min(shape.size() - at, copy_window));
      for (const Extent& extent : window) {
        if (extent.data)
          add_chunks(extent);
        else
          add_expected(extent);
      }
      at = window.back().offset + window.back().length;
    }
    check();
    joiner_.finish();
  }

 private:
  struct Checked {
    std::uint64_t number;
    std::span<std::byte> bytes;
    bool same = false;
    bool data = false;
  };

  void add_chunks(const Extent& extent) {
    const std::uint64_t bytes = chunks_.chunk_bytes();
    for (std::uint64_t number = extent.offset / bytes; number * bytes < extent.offset + extent.length; ++number)
      add(number);
  }

  void add_expected(const Extent& extent) {
    const std::uint64_t bytes = chunks_.chunk_bytes();
    for (std::uint64_t number = tree_.skip_zeros(extent.offset / bytes); number * bytes < extent.offset + extent.length;
         number = tree_.skip_zeros(number + 1))
      add(number);
  }

  void add(std::uint64_t number) {
    if (number < next_) return;
    next_ = number + 1;
    const std::uint32_t length = tree_.shape().chunk_length(number);
    batch_.push_back({number, std::span(storage_.get() + batch_.size() * chunks_.chunk_bytes(), length)});
    if (batch_.size() == chunks_at_once) check();
  }

  void check() {
    if (batch_.empty()) return;
    std::vector<BlockReader::Request> reads;
    for (const Checked& chunk : batch_)
      reads.push_back({chunk.number * chunks_.chunk_bytes(), chunk.bytes});
    copy_.pread_many(reads);
    chunks_.crew().for_each(batch_.size(), [this](std::size_t i) { compare(batch_[i]); });
    for (const Checked& chunk : batch_) {
      done_ += chunk.bytes.size();
      if (!chunk.same) joiner_.add(chunk.number * chunks_.chunk_bytes(), chunk.bytes.size(), chunk.data);
    }
    batch_.clear();
    progress_.advance(done_, done_);
  }

  void compare(Checked& chunk) {
    const DiskTree::Node leaf = tree_.leaf(chunk.number / map_fanout);
    const std::size_t place = chunk.number % map_fanout;
    const DiskPatch* const patch = leaf ? leaf->patch_at(place) : nullptr;
    const ChunkId id = leaf ? leaf->ids[place] : ChunkId{};
    chunk.data = patch != nullptr || !is_zero_chunk(id);
    if (patch != nullptr) {
      std::vector<std::byte> wanted(chunk.bytes.size());
      tree_.read_chunk(*leaf, place, wanted);
      chunk.same = std::ranges::equal(wanted, chunk.bytes);
    } else if (is_zero_chunk(id)) {
      chunk.same = chunk.bytes[0] == std::byte{0} &&
                   std::memcmp(chunk.bytes.data(), chunk.bytes.data() + 1, chunk.bytes.size() - 1) == 0;
    } else {
      chunk.same = chunks_.name(chunk.bytes) == id;
    }
  }

  ChunkStore& chunks_;
  DiskTree tree_;
  BlockReader& copy_;
  CaptureProgress& progress_;
  ExtentJoiner joiner_;
  AlignedBytes storage_;
  std::vector<Checked> batch_;
  std::uint64_t next_ = 0;  ///< chunks before it are done
  std::uint64_t done_ = 0;  ///< bytes
};

}  // namespace

void compare_disks(ChunkStore& chunks, const DiskMap& from, const DiskMap& to,
                   const std::function<void(const Extent&)>& consume) {
  Comparison(chunks, from, to, consume).run();
}

void check_disk_copy(ChunkStore& chunks, const DiskMap& map, BlockReader& copy, CaptureProgress& progress,
                     const std::function<void(const Extent&)>& consume) {
  CopyCheck(chunks, map, copy, progress, consume).run();
}

}  // namespace stillpoint
