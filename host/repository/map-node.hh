// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-id.hh"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace stillpoint {

/// Children of a node of a disk map or stream map.
inline constexpr std::uint64_t map_fanout = 1024;
/// No tree is higher: 1024^6 chunks are more than any disk has.
inline constexpr unsigned max_map_level = 6;
inline constexpr std::size_t max_disk_node_bytes = 8 + map_fanout * (32 + 42);
/// A patched piece is made of so many pieces of an earlier stream, at most.
inline constexpr std::size_t max_patch_bases = 3;
inline constexpr std::size_t max_stream_node_bytes = 8 + map_fanout * (48 + 36 + 32 * max_patch_bases);

/// A node of a stream map names each child and how long what is below it is.
struct StreamEntry {
  ChunkId id;
  std::uint64_t length = 0;  ///< bytes of the stream
};

/// A level 1 node of a stream map names pieces of the stream. A piece is a chunk of its own, or else made of others by
/// a patch (patch.hh).
struct StreamPiece {
  ChunkId id;                    ///< zero: zeros
  std::uint64_t length = 0;      ///< bytes of the stream
  std::uint64_t sketch = 0;      ///< likely the same for pieces that are much alike (gear.hh)
  std::vector<ChunkId> bases{};  ///< chunks; none when it is a chunk of its own
  ChunkId patch{};               ///< a chunk that holds the patch; zero without bases

  [[nodiscard]] bool patched() const noexcept { return !bases.empty(); }
};

/// Blocks of a chunk that are others than the chunk has, one after the other in a chunk of their own.
struct DiskPatch {
  std::uint16_t place = 0;   ///< of the chunk in its node
  std::uint64_t blocks = 0;  ///< as ChunkSink::Part has them
  ChunkId id;

  /// Bytes of the chunk of that id.
  [[nodiscard]] std::uint32_t length() const noexcept;
};

/// A node of a disk map.
struct DiskNode {
  std::vector<ChunkId> ids;          ///< map_fanout, zero ids at the end
  std::vector<DiskPatch> patches{};  ///< of a level 1 node, in ascending order of their places

  /// Null when the chunk at that place is as it is.
  [[nodiscard]] const DiskPatch* patch_at(std::size_t place) const noexcept;
};

/// Trailing zero ids are left out, so that a node does not depend on the disk's size.
[[nodiscard]] std::vector<std::byte> encode_disk_node(unsigned level, const DiskNode& node);
/// Throws Corruption when it is not a node of that level, or names a child beyond the first `children`, or a block
/// beyond `chunk_bytes`; `id` is for the message.
[[nodiscard]] DiskNode decode_disk_node(std::span<const std::byte> bytes, unsigned level, std::uint64_t children,
                                        std::uint32_t chunk_bytes, const ChunkId& id);

/// `level`: 2 or more.
[[nodiscard]] std::vector<std::byte> encode_stream_node(unsigned level, std::span<const StreamEntry> entries);
/// A stream map's root says how high the tree is. Throws Corruption when it is no stream node.
[[nodiscard]] unsigned stream_node_level(std::span<const std::byte> bytes, const ChunkId& id);
/// Throws Corruption when it is not a node of that level, 2 or more, over exactly `length` bytes.
[[nodiscard]] std::vector<StreamEntry> decode_stream_node(std::span<const std::byte> bytes, unsigned level,
                                                          std::uint64_t length, const ChunkId& id);

[[nodiscard]] std::vector<std::byte> encode_stream_leaf(std::span<const StreamPiece> pieces);
/// Throws Corruption when it is not a level 1 node over exactly `length` bytes.
[[nodiscard]] std::vector<StreamPiece> decode_stream_leaf(std::span<const std::byte> bytes, std::uint64_t length,
                                                          const ChunkId& id);

}  // namespace stillpoint
