// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-store.hh"
#include "host/repository/manifest.hh"
#include "host/repository/map-node.hh"
#include "host/repository/verify-result.hh"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace stillpoint {

/// Follows the maps of disks and dumps to the places of their chunks. Nodes are read and checked; of chunks it is
/// looked up that they are there, in the right length, and not known to be damaged. Not for several threads.
class MapCheck {
 public:
  enum class Pieces {
    followed,  ///< of a dump's patched pieces it is looked up that patch and bases are there
    made,      ///< and they are made: nothing else shows that a patch is the right one
  };
  /// `found` is told of every node and chunk that is there, once or more.
  explicit MapCheck(ChunkStore& chunks, std::function<void(const ChunkId&)> found = {},
                    Pieces pieces = Pieces::followed)
      : chunks_(chunks), found_(std::move(found)), pieces_(pieces) {}

  /// Chunks that are nowhere.
  [[nodiscard]] const std::set<ChunkId>& missing() const noexcept { return missing_; }
  /// Patches that do not make what the maps say.
  [[nodiscard]] const std::set<ChunkId>& wrong_patches() const noexcept { return wrong_patches_; }
  /// Whether a node could not be read: what lies below it is not known.
  [[nodiscard]] bool lost_nodes() const noexcept { return lost_nodes_; }

  /// Why it cannot be read as a whole; empty when it can, as far as this sees. What was followed once is not again.
  [[nodiscard]] std::string why_not_whole(const DiskMap& map);
  [[nodiscard]] std::string why_not_whole(const StreamMap& map);

 private:
  struct Key {
    ChunkId id;
    std::uint64_t extent;  ///< level and what limits its children: the same node may have another place elsewhere
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const noexcept { return ChunkIdHash()(key.id) ^ key.extent; }
  };

  const std::string& disk_node(const class DiskShape& shape, const ChunkId& id, unsigned level, std::uint64_t index);
  const std::string& stream_node(const ChunkId& id, unsigned level, std::uint64_t length);
  [[nodiscard]] std::string chunk(const ChunkId& id, std::uint64_t shortest, std::uint64_t longest);
  [[nodiscard]] std::string patched_pieces(const std::vector<StreamPiece>& pieces);

  [[nodiscard]] std::vector<std::byte> node(const ChunkId& id, std::size_t limit);

  ChunkStore& chunks_;
  std::function<void(const ChunkId&)> found_;
  Pieces pieces_;
  std::set<ChunkId> missing_;
  std::set<ChunkId> wrong_patches_;
  bool lost_nodes_ = false;
  std::unordered_map<Key, std::string, KeyHash> seen_;  ///< nodes, and why what is below them is not whole
};

/// Puts these chunks, wherever they lie, in quarantine where the repository is writable.
void distrust_everywhere(ChunkStore& chunks, const std::set<ChunkId>& ids);

/// Reads packs through: all, or some of them. What is damaged goes to quarantine where the repository is writable.
void read_packs(ChunkStore& chunks, const VerifyOptions& options, VerifyResult& result);

}  // namespace stillpoint
