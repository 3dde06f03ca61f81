// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/map-builder.hh"

#include "common/block.hh"
#include "host/repository/checksum.hh"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>

namespace stillpoint {

namespace {

/// Blocks are stored as a patch where they are this part of the chunk, or less.
constexpr std::uint64_t worth_half = 2;

}  // namespace

MapBuilder::MapBuilder(ChunkStore& chunks, std::uint64_t size, const std::optional<DiskMap>& base, StoredTally& tally)
    : chunks_(chunks), shape_(size, chunks.chunk_bytes()), tally_(tally) {
  if (base) base_.emplace(chunks, *base);
}

void MapBuilder::advance(std::uint64_t number) {
  if (number < next_ || number >= shape_.chunks()) throw std::logic_error("chunk numbers ascend and lie on the disk");
  next_ = number + 1;
}

void MapBuilder::expect(std::uint64_t number) {
  expect_on(number, {});
}

/// `id`: what the chunk is as long as nothing else is settled.
void MapBuilder::expect_on(std::uint64_t number, const ChunkId& id) {
  advance(number);
  close_before(number / map_fanout);
  const std::scoped_lock lock(mutex_);
  OpenLeaf& leaf = open_[number / map_fanout];
  leaf.ids[number % map_fanout] = id;
  leaf.given.set(number % map_fanout);
  ++leaf.awaited;
}

std::uint64_t MapBuilder::expect_part(std::uint64_t number, std::uint64_t blocks) {
  if (!base_ || shape_.chunk_length(number) != chunks_.chunk_bytes() ||
      base_->shape().chunk_length(number) != chunks_.chunk_bytes())
    return 0;
  const DiskTree::Node leaf = base_->leaf(number / map_fanout);
  const std::size_t place = number % map_fanout;
  if (!leaf || is_zero_chunk(leaf->ids[place])) return 0;
  // One patch to a chunk: it holds what earlier ones did.
  if (const DiskPatch* const patch = leaf->patch_at(place)) blocks |= patch->blocks;
  if (std::popcount(blocks) * std::uint64_t{part_block_bytes} * worth_half > chunks_.chunk_bytes()) return 0;
  expect_on(number, leaf->ids[place]);
  return blocks;
}

void MapBuilder::settle(std::uint64_t number, const ChunkId& id) {
  const std::uint64_t index = number / map_fanout;
  std::unique_lock lock(mutex_);
  open_leaf(index).ids[number % map_fanout] = id;
  settled(index, lock);
}

void MapBuilder::settle_part(std::uint64_t number, std::uint64_t blocks, const ChunkId& id) {
  const std::uint64_t index = number / map_fanout;
  const std::size_t place = number % map_fanout;
  std::unique_lock lock(mutex_);
  open_leaf(index).patches.push_back({static_cast<std::uint16_t>(place), blocks, id});
  settled(index, lock);
}

MapBuilder::OpenLeaf& MapBuilder::open_leaf(std::uint64_t index) {
  const auto it = open_.find(index);
  if (it == open_.end()) throw std::logic_error("a chunk that nobody expected");
  return it->second;
}

/// One more of what is awaited has come.
void MapBuilder::settled(std::uint64_t index, std::unique_lock<std::mutex>& lock) {
  const auto it = open_.find(index);
  if (--it->second.awaited > 0 || !it->second.closed) return;
  OpenLeaf whole = std::move(it->second);
  open_.erase(it);
  lock.unlock();
  complete(index, std::move(whole));
}

void MapBuilder::zeros(std::uint64_t first, std::uint64_t count) {
  if (count == 0) return;
  advance(first);
  if (count > shape_.chunks() - first) throw std::logic_error("chunks behind the end of the disk");
  const std::uint64_t end = first + count;
  next_ = end;
  close_before(first / map_fanout);
  for (std::uint64_t at = first; at < end;) {
    const std::uint64_t index = at / map_fanout;
    const bool to_disk_end = end == shape_.chunks();
    const std::uint64_t whole_until = to_disk_end ? (end + map_fanout - 1) / map_fanout : end / map_fanout;
    if (at % map_fanout == 0 && whole_until > index) {
      zero_leaves_.push_back({index, whole_until});
      at = std::min(end, whole_until * map_fanout);
      continue;
    }
    const std::uint64_t stop = std::min(end, (index + 1) * map_fanout);
    const std::scoped_lock lock(mutex_);
    OpenLeaf& leaf = open_[index];
    for (; at < stop; ++at)
      leaf.given.set(at % map_fanout);
  }
}

void MapBuilder::close_before(std::uint64_t leaf) {
  for (;;) {
    std::unique_lock lock(mutex_);
    auto it = open_.begin();
    while (it != open_.end() && it->first < leaf && it->second.awaited > 0) {
      it->second.closed = true;
      ++it;
    }
    if (it == open_.end() || it->first >= leaf) return;
    const std::uint64_t index = it->first;
    OpenLeaf whole = std::move(it->second);
    open_.erase(it);
    lock.unlock();
    complete(index, std::move(whole));
  }
}

void MapBuilder::complete(std::uint64_t index, OpenLeaf leaf) {
  fill_from_base(index, leaf);
  const ChunkId id = put_leaf(leaf);
  const std::scoped_lock lock(mutex_);
  done_[index] = id;
}

ChunkId MapBuilder::put_leaf(const OpenLeaf& leaf) {
  if (std::ranges::all_of(leaf.ids, is_zero_chunk)) return {};
  DiskNode node{leaf.ids, leaf.patches};
  std::ranges::sort(node.patches, {}, &DiskPatch::place);
  return chunks_.put(encode_disk_node(1, node), RecordKind::node, tally_);
}

void MapBuilder::fill_from_base(std::uint64_t index, OpenLeaf& leaf) {
  const std::uint64_t children = shape_.children(1, index);
  bool lacking = false;
  for (std::uint64_t i = 0; i < children && !lacking; ++i)
    lacking = !leaf.given.test(i);
  if (!base_ || !lacking) return;
  const std::uint64_t base_children = base_->shape().children(1, index);
  if (base_children == 0) return;
  const DiskTree::Node base = base_->leaf(index);
  if (!base) return;
  for (std::uint64_t i = 0; i < std::min(children, base_children); ++i) {
    if (leaf.given.test(i)) continue;
    const std::uint64_t number = index * map_fanout + i;
    if (base_->shape().chunk_length(number) != shape_.chunk_length(number)) {
      leaf.ids[i] = resized(number, *base);
      continue;
    }
    leaf.ids[i] = base->ids[i];
    if (const DiskPatch* const patch = base->patch_at(i)) leaf.patches.push_back(*patch);
  }
}

/// The chunk at the end of the smaller disk has another length on the other one.
ChunkId MapBuilder::resized(std::uint64_t number, const DiskNode& base) {
  std::vector<std::byte> bytes(base_->shape().chunk_length(number));
  base_->read_chunk(base, number % map_fanout, bytes);
  bytes.resize(shape_.chunk_length(number));
  return is_zero(bytes) ? ChunkId{} : chunks_.put(bytes, RecordKind::data, tally_);
}

DiskMap MapBuilder::finish() {
  close_before(UINT64_MAX);
  ChunkId base_root;
  if (base_) {
    base_root = base_->root();
    if (base_->shape().height() > shape_.height()) base_root = base_->node_id(shape_.height(), 0);
  }
  return {build(shape_.height(), 0, base_root), shape_.size()};
}

bool MapBuilder::touched(std::uint64_t begin, std::uint64_t end) const {
  const auto done = done_.lower_bound(begin);
  if (done != done_.end() && done->first < end) return true;
  const auto zero = std::upper_bound(zero_leaves_.begin(), zero_leaves_.end(), begin,
                                     [](std::uint64_t leaf, const Range& range) { return leaf < range.end; });
  return zero != zero_leaves_.end() && zero->begin < end;
}

bool MapBuilder::all_zero(std::uint64_t begin, std::uint64_t end) const {
  auto zero = std::upper_bound(zero_leaves_.begin(), zero_leaves_.end(), begin,
                               [](std::uint64_t leaf, const Range& range) { return leaf < range.end; });
  for (; zero != zero_leaves_.end() && zero->begin <= begin; ++zero) {
    begin = zero->end;
    if (begin >= end) return true;
  }
  return false;
}

/// Whether the chunks [begin, end), the end that of a node wherever the disks end, are the same ones on both disks.
bool MapBuilder::same_as_base(std::uint64_t begin, std::uint64_t end) const {
  if (base_->shape().size() == shape_.size()) return true;
  const std::uint64_t whole = std::min(base_->shape().size(), shape_.size()) / chunks_.chunk_bytes();
  const std::uint64_t longest = std::max(base_->shape().chunks(), shape_.chunks());
  return begin < whole && std::min(end, longest) <= whole;
}

/// `base`: the base's node at this place; above the base's height, and first of its level, the base's root.
ChunkId MapBuilder::build(unsigned level, std::uint64_t index, const ChunkId& base) {
  const std::uint64_t children = shape_.children(level, index);
  if (children == 0) return {};
  const std::uint64_t leaves = DiskShape::span(level - 1);
  const std::uint64_t first_leaf = index * leaves;
  const std::uint64_t end_leaf = std::min(first_leaf + leaves, (shape_.chunks() + map_fanout - 1) / map_fanout);
  if (all_zero(first_leaf, end_leaf)) return {};
  const bool above_base = base_ && level > base_->shape().height();
  if (!touched(first_leaf, end_leaf)) {
    if (is_zero_chunk(base)) return {};
    if (!above_base && same_as_base(first_leaf * map_fanout, (first_leaf + leaves) * map_fanout)) return base;
  }
  if (level == 1) {
    const auto done = done_.find(index);
    if (done != done_.end()) return done->second;
    OpenLeaf leaf;
    fill_from_base(index, leaf);
    return put_leaf(leaf);
  }
  std::vector<ChunkId> base_ids(map_fanout);
  if (above_base)
    base_ids[0] = base;
  else if (!is_zero_chunk(base))
    base_ids = base_->node(base, level, index)->ids;
  DiskNode node{std::vector<ChunkId>(map_fanout)};
  for (std::uint64_t i = 0; i < children; ++i)
    node.ids[i] = build(level - 1, index * map_fanout + i, base_ids[i]);
  if (std::ranges::all_of(node.ids, is_zero_chunk)) return {};
  return chunks_.put(encode_disk_node(level, node), RecordKind::node, tally_);
}

}  // namespace stillpoint
