// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/dump-base.hh"

#include "common/errors.hh"
#include "common/log.hh"

#include <algorithm>

namespace stillpoint {

namespace {

/// A guess costs reading and comparing. What is new in a dump lies together most often, and is not guessed at for long.
constexpr unsigned most_guesses = 4;
/// 16 MiB at most.
constexpr std::size_t kept_contents = 32;

}  // namespace

std::optional<DumpBase::Found> DumpBase::find(const ChunkId& id, std::uint64_t sketch) {
  const std::scoped_lock lock(mutex_);
  open();
  const std::optional<Place> place = place_of(id, sketch);
  if (place) {
    move_to(*place);
  } else if (guesses_ == most_guesses || at(*last_) == nullptr) {
    return std::nullopt;
  } else {
    ++guesses_;
  }
  Found found{*at(*last_), {}, !place};
  for (const std::optional<Place>& beside : {before(*last_), behind(*last_)})
    if (beside) found.around.push_back(*at(*beside));
  return found;
}

void DumpBase::pass(const ChunkId& id) {
  const std::scoped_lock lock(mutex_);
  open();
  // Not back: a piece that a dump repeats would draw the window to its first place again and again.
  if (const auto same = by_id_.find(id); same != by_id_.end() && same->second > *last_) move_to(same->second);
}

void DumpBase::open() {
  if (!last_) move_to({0, 0});
}

std::optional<DumpBase::Place> DumpBase::place_of(const ChunkId& id, std::uint64_t sketch) const {
  if (const auto same = by_id_.find(id); same != by_id_.end()) return same->second;
  if (sketch == 0) return std::nullopt;
  const std::optional<Place> next = behind(*last_);
  if (next && at(*next)->sketch == sketch) return next;
  const auto alike = by_sketch_.find(sketch);
  if (alike == by_sketch_.end() || alike->second.count != 1 || at(alike->second.place) == nullptr) return std::nullopt;
  return alike->second.place;
}

/// Null when that part of the dump is not known, or does not reach so far.
const StreamPiece* DumpBase::at(const Place& place) const {
  const auto leaf = leaves_.find(place.leaf);
  return leaf != leaves_.end() && place.piece < leaf->second.size() ? &leaf->second[place.piece] : nullptr;
}

std::optional<DumpBase::Place> DumpBase::before(const Place& place) const {
  if (place == Place{}) return std::nullopt;
  const Place there = place.piece > 0 ? Place{place.leaf, place.piece - 1} : Place{place.leaf - 1, map_fanout - 1};
  return at(there) != nullptr ? std::optional(there) : std::nullopt;
}

std::optional<DumpBase::Place> DumpBase::behind(const Place& place) const {
  const Place there = place.piece + 1 < map_fanout ? Place{place.leaf, place.piece + 1} : Place{place.leaf + 1, 0};
  return at(there) != nullptr ? std::optional(there) : std::nullopt;
}

/// That was found last: its node and the neighbours are known from now on. Those one further are not forgotten yet, for
/// threads that work at both sides of a border.
void DumpBase::move_to(const Place& place) {
  last_ = place;
  guesses_ = 0;
  const auto less = [](std::uint64_t number, std::uint64_t by) { return number < by ? 0 : number - by; };
  while (!leaves_.empty() && leaves_.begin()->first < less(place.leaf, 2))
    forget(leaves_.begin()->first);
  while (!leaves_.empty() && leaves_.rbegin()->first > place.leaf + 2)
    forget(leaves_.rbegin()->first);
  for (std::uint64_t number = less(place.leaf, 1); number <= place.leaf + 1; ++number)
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
    if (pieces[i].sketch != 0) ++by_sketch_.try_emplace(pieces[i].sketch, Sketched{{leaf, i}}).first->second.count;
  }
  leaves_.emplace(leaf, std::move(pieces));
}

void DumpBase::forget(std::uint64_t leaf) {
  const auto node = leaves_.find(leaf);
  for (const StreamPiece& piece : node->second) {
    if (const auto found = by_id_.find(piece.id); found != by_id_.end() && found->second.leaf == leaf)
      by_id_.erase(found);
    if (const auto found = by_sketch_.find(piece.sketch); found != by_sketch_.end() && --found->second.count == 0)
      by_sketch_.erase(found);
  }
  leaves_.erase(node);
}

/// Empty behind the end. All nodes but the last of each level are full, so a number says the way.
std::vector<StreamPiece> DumpBase::read_leaf(std::uint64_t number) {
  if (map_.size == 0) return {};
  StreamEntry node{map_.root, map_.size};
  if (height_ == 0) height_ = stream_node_level(chunks_.get(node.id, max_stream_node_bytes), node.id);
  for (unsigned level = height_; level > 1; --level) {
    const std::vector<StreamEntry>& below = children(node, level);
    const std::uint64_t place = number >> (10 * (level - 2));
    if (place >= below.size()) return {};
    number -= place << (10 * (level - 2));
    node = below[place];
  }
  if (number != 0) return {};
  return decode_stream_leaf(chunks_.get(node.id, max_stream_node_bytes), node.length, node.id);
}

const std::vector<StreamEntry>& DumpBase::children(const StreamEntry& node, unsigned level) {
  auto& [id, entries] = path_[level];
  if (id != node.id) {
    entries = decode_stream_node(chunks_.get(node.id, max_stream_node_bytes), level, node.length, node.id);
    id = node.id;
  }
  return entries;
}

DumpBase::Content DumpBase::content(const ChunkId& id) {
  {
    const std::scoped_lock lock(contents_mutex_);
    const auto found = std::ranges::find(contents_, id, &std::pair<ChunkId, Content>::first);
    if (found != contents_.end()) {
      contents_.splice(contents_.begin(), contents_, found);
      return contents_.front().second;
    }
  }
  Content content;
  try {
    content = std::make_shared<const std::vector<std::byte>>(chunks_.get(id, max_dump_chunk_bytes));
  } catch (const Corruption& e) {
    log_warning("a part of the earlier dump cannot be built on: {}", e.what());
  }
  const std::scoped_lock lock(contents_mutex_);
  contents_.emplace_front(id, content);
  if (contents_.size() > kept_contents) contents_.pop_back();
  return content;
}

}  // namespace stillpoint
