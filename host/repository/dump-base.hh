// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-store.hh"
#include "host/repository/manifest.hh"
#include "host/repository/map-node.hh"

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

namespace stillpoint {

/// An earlier dump of the same database: finds the piece of it that a piece of the new one is made of best. Knows the
/// part of the earlier dump around the last find only, some 200 MB of it, so that memory does not grow with the dump.
/// May be used by several threads.
class DumpBase {
 public:
  DumpBase(ChunkStore& chunks, const StreamMap& map) : chunks_(chunks), map_(map) {}

  struct Found {
    StreamPiece piece;
    std::vector<StreamPiece> around;  ///< the piece, and those before and behind it that are there, in order
    bool guessed = false;             ///< it is not known to be alike, but comes where such a one was found last
  };

  /// The very same piece, or one that is likely much alike. What cannot be read of the earlier dump is passed over.
  [[nodiscard]] std::optional<Found> find(const ChunkId& id, std::uint64_t sketch);

 private:
  struct Place {
    std::uint64_t leaf;
    std::size_t piece;
  };

  [[nodiscard]] std::optional<Place> place_of(const ChunkId& id, std::uint64_t sketch) const;
  [[nodiscard]] Found found_at(const Place& place) const;
  void move_to(std::uint64_t leaf);
  void add(std::uint64_t leaf);
  void forget(std::uint64_t leaf);
  [[nodiscard]] std::vector<StreamPiece> read_leaf(std::uint64_t number);

  ChunkStore& chunks_;
  StreamMap map_;
  std::mutex mutex_;
  std::optional<Place> last_;                                 ///< found; the beginning at first
  unsigned guesses_ = 0;                                      ///< since then
  std::map<std::uint64_t, std::vector<StreamPiece>> leaves_;  ///< level 1 nodes by their number
  std::unordered_map<ChunkId, Place, ChunkIdHash> by_id_;
  std::unordered_map<std::uint64_t, Place> by_sketch_;
};

}  // namespace stillpoint
