// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-store.hh"
#include "host/repository/manifest.hh"
#include "host/repository/map-node.hh"

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

namespace stillpoint {

/// The shape of a disk map: which node covers which chunks. Level 1 nodes name chunks; the root's level follows from
/// the disk's size alone.
class DiskShape {
 public:
  DiskShape(std::uint64_t size, std::uint32_t chunk_bytes);

  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] std::uint64_t chunks() const noexcept { return chunks_; }
  [[nodiscard]] unsigned height() const noexcept { return height_; }
  /// Chunks below one node of that level.
  [[nodiscard]] static std::uint64_t span(unsigned level) noexcept;
  /// Children that the node has on this disk, at most map_fanout.
  [[nodiscard]] std::uint64_t children(unsigned level, std::uint64_t index) const noexcept;
  /// Bytes of chunk `number`: shorter at the disk's end.
  [[nodiscard]] std::uint32_t chunk_length(std::uint64_t number) const noexcept;
  /// The node at that place. Throws Corruption when it is not one that can stand there.
  [[nodiscard]] DiskNode decode(std::span<const std::byte> bytes, unsigned level, std::uint64_t index,
                                const ChunkId& id) const;

 private:
  std::uint64_t size_;
  std::uint32_t chunk_bytes_;
  std::uint64_t chunks_;
  unsigned height_;
};

/// Reads a disk map, a node at a time, and keeps the last nodes. May be used by several threads.
class DiskTree {
 public:
  using Node = std::shared_ptr<const DiskNode>;

  DiskTree(ChunkStore& chunks, const DiskMap& map);

  [[nodiscard]] const DiskShape& shape() const noexcept { return shape_; }
  [[nodiscard]] const ChunkId& root() const noexcept { return root_; }

  /// By the node's id and place. Throws Corruption.
  [[nodiscard]] Node node(const ChunkId& id, unsigned level, std::uint64_t index);

  /// The id of the node at that place: zero when everything below it is.
  [[nodiscard]] ChunkId node_id(unsigned level, std::uint64_t index);

  /// The level 1 node that names the chunks from `index` * map_fanout on; null when all are zeros.
  [[nodiscard]] Node leaf(std::uint64_t index);

  /// Fills `bytes` with the chunk at that place of a level 1 node; as long as it is. Throws Corruption.
  void read_chunk(const DiskNode& leaf, std::size_t place, std::span<std::byte> bytes);

  /// From chunk `number` on: the first chunk that may not be zeros, skipping whole subtrees; chunks() when none.
  [[nodiscard]] std::uint64_t skip_zeros(std::uint64_t number);

 private:
  struct Kept {
    ChunkId id;
    unsigned level;
    std::uint64_t index;
    Node node;
  };

  ChunkStore& chunks_;
  DiskShape shape_;
  ChunkId root_;
  std::mutex mutex_;
  std::list<Kept> kept_;  ///< most recently used first
};

}  // namespace stillpoint
