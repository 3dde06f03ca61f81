// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "host/repository/chunk-store.hh"
#include "host/repository/manifest.hh"
#include "host/repository/map-node.hh"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace stillpoint {

/// Gives the stream to the consumer in order; several chunks are read at once. Throws Corruption.
void read_stream(ChunkStore& chunks, const StreamMap& map,
                 const std::function<void(std::span<const std::byte>)>& consumer);

/// Fills `bytes`, as long as the piece. False when all that it is made of is there, and makes something else. Throws
/// Corruption.
[[nodiscard]] bool read_patched_piece(ChunkStore& chunks, const StreamPiece& piece, std::span<std::byte> bytes);

/// A stream that is read at any place, every chunk checked against its id. May be used by several threads.
class MappedStreamReader : public BlockReader {
 public:
  /// Throws Corruption.
  MappedStreamReader(std::shared_ptr<ChunkStore> chunks, const StreamMap& map);

  [[nodiscard]] std::uint64_t size() const override { return root_.length; }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override;

 private:
  struct Children {
    std::vector<StreamEntry> nodes;   ///< of a node above level 1
    std::vector<StreamPiece> pieces;  ///< of one of level 1
  };
  using Node = std::shared_ptr<const Children>;
  struct Kept {
    StreamEntry entry;
    unsigned level;
    Node node;
  };

  [[nodiscard]] Node node(const StreamEntry& entry, unsigned level);
  void read_node(const StreamEntry& entry, unsigned level, std::span<std::byte> buffer, std::uint64_t offset);
  void read_part(const StreamPiece& piece, std::span<std::byte> buffer, std::uint64_t offset);

  std::shared_ptr<ChunkStore> chunks_;
  StreamEntry root_;
  unsigned height_ = 0;
  std::mutex mutex_;
  std::list<Kept> kept_;  ///< nodes, most recently used first
};

}  // namespace stillpoint
