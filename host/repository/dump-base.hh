// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-store.hh"
#include "host/repository/manifest.hh"
#include "host/repository/map-node.hh"

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
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
  using Content = std::shared_ptr<const std::vector<std::byte>>;
  struct Found {
    StreamPiece piece;
    std::vector<StreamPiece> around;  ///< those before and behind it that are there
    bool guessed = false;             ///< it is not known to be alike, but comes where such a one was found last
  };

  DumpBase(ChunkStore& chunks, const StreamMap& map) : chunks_(chunks), map_(map) {}

  /// The very same piece, or one that is likely much alike. What cannot be read of the earlier dump is passed over.
  [[nodiscard]] std::optional<Found> find(const ChunkId& id, std::uint64_t sketch);
  /// The new dump has this piece, which needs none of the earlier ones: what comes next is looked for behind it.
  void pass(const ChunkId& id);

  /// A chunk to build on; the last ones are kept, for pieces beside each other have the same. Null when it is not to
  /// be had.
  [[nodiscard]] Content content(const ChunkId& id);

 private:
  struct Place {
    std::uint64_t leaf = 0;
    std::size_t piece = 0;
    auto operator<=>(const Place&) const = default;
  };
  struct Sketched {
    Place place;
    std::size_t count = 0;  ///< of pieces that share it; more than one are as good as none
  };

  void open();
  [[nodiscard]] std::optional<Place> place_of(const ChunkId& id, std::uint64_t sketch) const;
  [[nodiscard]] const StreamPiece* at(const Place& place) const;
  [[nodiscard]] std::optional<Place> before(const Place& place) const;
  [[nodiscard]] std::optional<Place> behind(const Place& place) const;
  void move_to(const Place& place);
  void add(std::uint64_t leaf);
  void forget(std::uint64_t leaf);
  [[nodiscard]] std::vector<StreamPiece> read_leaf(std::uint64_t number);
  [[nodiscard]] const std::vector<StreamEntry>& children(const StreamEntry& node, unsigned level);

  ChunkStore& chunks_;
  StreamMap map_;
  std::mutex mutex_;
  std::optional<Place> last_;                                 ///< found; the beginning at first
  unsigned guesses_ = 0;                                      ///< since then
  std::map<std::uint64_t, std::vector<StreamPiece>> leaves_;  ///< level 1 nodes by their number
  std::unordered_map<ChunkId, Place, ChunkIdHash> by_id_;
  std::unordered_map<std::uint64_t, Sketched> by_sketch_;
  unsigned height_ = 0;                                                    ///< level of the root, once it is known
  std::map<unsigned, std::pair<ChunkId, std::vector<StreamEntry>>> path_;  ///< the last node read of each level

  std::mutex contents_mutex_;
  std::list<std::pair<ChunkId, Content>> contents_;  ///< most recently used first
};

}  // namespace stillpoint
