// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-store.hh"
#include "host/repository/disk-tree.hh"
#include "host/repository/manifest.hh"

#include <bitset>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace stillpoint {

/// Builds a disk's map out of chunk ids and the disk as it was before. Level 1 nodes are stored as soon as their chunks
/// are known, so that memory does not grow with the disk. Chunks are expected in ascending order by one thread and
/// settled in any order by any.
class MapBuilder {
 public:
  MapBuilder(ChunkStore& chunks, std::uint64_t size, const std::optional<DiskMap>& base, StoredTally& tally);

  [[nodiscard]] const DiskShape& shape() const noexcept { return shape_; }

  /// Chunk `number` will be settled. Numbers ascend over all calls of expect() and zeros(); a bug otherwise
  /// (std::logic_error).
  void expect(std::uint64_t number);
  void settle(std::uint64_t number, const ChunkId& id);

  /// As expect(), where only these blocks of the chunk are others than the base's. Returns those that will be settled,
  /// these and what the base's chunk is patched with itself; 0, and expects nothing, where the chunk is better stored
  /// as a whole.
  [[nodiscard]] std::uint64_t expect_part(std::uint64_t number, std::uint64_t blocks);
  /// `id`: of the chunk that has these blocks.
  void settle_part(std::uint64_t number, std::uint64_t blocks, const ChunkId& id);
  /// Chunks [first, first + count) are zeros.
  void zeros(std::uint64_t first, std::uint64_t count);

  /// Everything expected is settled. What was not expected is the base's, or zeros without one.
  [[nodiscard]] DiskMap finish();

 private:
  struct OpenLeaf {
    std::vector<ChunkId> ids = std::vector<ChunkId>(map_fanout);
    std::vector<DiskPatch> patches{};
    std::bitset<map_fanout> given;
    std::uint64_t awaited = 0;
    bool closed = false;  ///< no more chunks of it will be expected
  };
  struct Range {
    std::uint64_t begin;
    std::uint64_t end;
  };

  void expect_on(std::uint64_t number, const ChunkId& id);
  void advance(std::uint64_t number);
  void close_before(std::uint64_t leaf);
  [[nodiscard]] OpenLeaf& open_leaf(std::uint64_t index);
  void settled(std::uint64_t index, std::unique_lock<std::mutex>& lock);
  void complete(std::uint64_t index, OpenLeaf leaf);
  [[nodiscard]] ChunkId put_leaf(const OpenLeaf& leaf);
  void fill_from_base(std::uint64_t index, OpenLeaf& leaf);
  [[nodiscard]] ChunkId resized(std::uint64_t number, const DiskNode& base);
  [[nodiscard]] ChunkId build(unsigned level, std::uint64_t index, const ChunkId& base);
  [[nodiscard]] bool touched(std::uint64_t begin, std::uint64_t end) const;
  [[nodiscard]] bool all_zero(std::uint64_t begin, std::uint64_t end) const;
  [[nodiscard]] bool same_as_base(std::uint64_t begin, std::uint64_t end) const;

  ChunkStore& chunks_;
  DiskShape shape_;
  StoredTally& tally_;
  std::optional<DiskTree> base_;
  std::uint64_t next_ = 0;  ///< the lowest number that may come next

  std::mutex mutex_;
  std::map<std::uint64_t, OpenLeaf> open_;
  std::map<std::uint64_t, ChunkId> done_;  ///< level 1 nodes
  std::vector<Range> zero_leaves_;         ///< whole level 1 nodes of zeros, ascending
};

}  // namespace stillpoint
