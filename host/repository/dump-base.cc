// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/dump-base.hh"

#include "common/errors.hh"
#include "common/log.hh"

#include <algorithm>

namespace stillpoint {

namespace {

/// A guess costs reading and comparing. What is new in a dump lies together most often, and is not guessed at for long.
constexpr unsigned most_guesses = 4;

}  // namespace

std::optional<DumpBase::Found> DumpBase::find(const ChunkId& id, std::uint64_t sketch) {
  const std::scoped_lock lock(mutex_);
  if (!last_) {
    move_to(0);
    last_ = Place{0, 0};
  }
  if (const std::optional<Place> place = place_of(id, sketch)) {
    guesses_ = 0;
    last_ = place;
    Found found = found_at(*place);
    move_to(place->leaf);
    return found;
  }
  if (guesses_ == most_guesses || leaves_.at(last_->leaf).empty()) return std::nullopt;
  ++guesses_;
  Found found = found_at(*last_);
  found.guessed = true;
  return found;
}

std::optional<DumpBase::Place> DumpBase::place_of(const ChunkId& id, std::uint64_t sketch) const {
  if (const auto same = by_id_.find(id); same != by_id_.end()) return same->second;
  if (const auto alike = by_sketch_.find(sketch); sketch != 0 && alike != by_sketch_.end()) return alike->second;
  return std::nullopt;
}

DumpBase::Found DumpBase::found_at(const Place& place) const {
  Found found{leaves_.at(place.leaf)[place.piece], {}, false};
  const auto add = [&](std::uint64_t leaf, std::size_t piece) {
    if (const auto node = leaves_.find(leaf); node != leaves_.end() && piece < node->second.size())
      found.around.push_back(node->second[piece]);
  };
  if (place.piece > 0)
    add(place.leaf, place.piece - 1);
  else if (place.leaf > 0)
    add(place.leaf - 1, map_fanout - 1);
  add(place.leaf, place.piece);
  if (place.piece + 1 < map_fanout)
    add(place.leaf, place.piece + 1);
  else
    add(place.leaf + 1, 0);
  return found;
}

/// Knows that node and its neighbours from now on.
void DumpBase::move_to(std::uint64_t leaf) {
  const std::uint64_t first = leaf == 0 ? 0 : leaf - 1;
  while (!leaves_.empty() && leaves_.begin()->first < first)
    forget(leaves_.begin()->first);
  while (!leaves_.empty() && leaves_.rbegin()->first > leaf + 1)
    forget(leaves_.rbegin()->first);
  for (std::uint64_t number = first; number <= leaf + 1; ++number)
    if (!leaves_.contains(number)) add(number);
}

void DumpBase::add(std::uint64_t leaf) {
  std::vector<StreamPiece> pieces;
  try {
    pieces = read_leaf(leaf);
  } catch (const Corruption& e) {
    log_warning("a part of the earlier dump cannot be built on: {}", e.what());
  }
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    by_id_.try_emplace(pieces[i].id, Place{leaf, i});
    if (pieces[i].sketch != 0) by_sketch_.try_emplace(pieces[i].sketch, Place{leaf, i});
  }
  leaves_.emplace(leaf, std::move(pieces));
}

void DumpBase::forget(std::uint64_t leaf) {
  const auto node = leaves_.find(leaf);
  for (const StreamPiece& piece : node->second) {
    if (const auto found = by_id_.find(piece.id); found != by_id_.end() && found->second.leaf == leaf)
      by_id_.erase(found);
    if (const auto found = by_sketch_.find(piece.sketch); found != by_sketch_.end() && found->second.leaf == leaf)
      by_sketch_.erase(found);
  }
  leaves_.erase(node);
}

/// Empty behind the end. All nodes but the last of each level are full, so a number says the way.
std::vector<StreamPiece> DumpBase::read_leaf(std::uint64_t number) {
  if (map_.size == 0) return {};
  StreamEntry node{map_.root, map_.size};
  std::vector<std::byte> bytes = chunks_.get(node.id, max_stream_node_bytes);
  for (unsigned level = stream_node_level(bytes, node.id); level > 1; --level) {
    const std::vector<StreamEntry> children = decode_stream_node(bytes, level, node.length, node.id);
    const std::uint64_t place = number >> (10 * (level - 2));
    if (place >= children.size()) return {};
    number -= place << (10 * (level - 2));
    node = children[place];
    bytes = chunks_.get(node.id, max_stream_node_bytes);
  }
  if (number != 0) return {};
  return decode_stream_leaf(bytes, node.length, node.id);
}

}  // namespace stillpoint
