// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/disk-tree.hh"

#include "common/block.hh"
#include "common/errors.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

namespace {

constexpr std::size_t kept_nodes = 32;

unsigned height_for(std::uint64_t chunks) {
  unsigned height = 1;
  while (DiskShape::span(height) < chunks)
    ++height;
  return height;
}

}  // namespace

DiskShape::DiskShape(std::uint64_t size, std::uint32_t chunk_bytes)
    : size_(size),
      chunk_bytes_(chunk_bytes),
      chunks_(size / chunk_bytes + (size % chunk_bytes != 0 ? 1 : 0)),
      height_(height_for(chunks_)) {}

std::uint64_t DiskShape::span(unsigned level) noexcept {
  return std::uint64_t{1} << (10 * level);
}

std::uint64_t DiskShape::children(unsigned level, std::uint64_t index) const noexcept {
  const std::uint64_t begin = index * span(level);
  if (begin >= chunks_) return 0;
  const std::uint64_t below = span(level - 1);
  return std::min(map_fanout, (chunks_ - begin + below - 1) / below);
}

std::uint32_t DiskShape::chunk_length(std::uint64_t number) const noexcept {
  const std::uint64_t begin = number * chunk_bytes_;
  return begin >= size_ ? 0 : static_cast<std::uint32_t>(std::min<std::uint64_t>(chunk_bytes_, size_ - begin));
}

DiskNode DiskShape::decode(std::span<const std::byte> bytes, unsigned level, std::uint64_t index,
                           const ChunkId& id) const {
  DiskNode node = decode_disk_node(bytes, level, children(level, index), chunk_bytes_, id);
  // The last chunk of a disk may be shorter, and is not patched then.
  if (!node.patches.empty() && chunk_length(index * map_fanout + node.patches.back().place) != chunk_bytes_)
    throw Corruption(fmt::format("map node {}: the end of the disk is patched", to_hex(id)));
  return node;
}

DiskTree::DiskTree(ChunkStore& chunks, const DiskMap& map)
    : chunks_(chunks), shape_(map.size, chunks.chunk_bytes()), root_(map.root) {}

DiskTree::Node DiskTree::node(const ChunkId& id, unsigned level, std::uint64_t index) {
  {
    const std::scoped_lock lock(mutex_);
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) {
      return kept.index == index && kept.level == level && kept.id == id;
    });
    if (found != kept_.end()) {
      kept_.splice(kept_.begin(), kept_, found);
      return kept_.front().node;
    }
  }
  auto node = std::make_shared<const DiskNode>(shape_.decode(chunks_.get(id, max_disk_node_bytes), level, index, id));
  const std::scoped_lock lock(mutex_);
  kept_.push_front({id, level, index, node});
  if (kept_.size() > kept_nodes) kept_.pop_back();
  return node;
}

ChunkId DiskTree::node_id(unsigned level, std::uint64_t index) {
  ChunkId id = root_;
  for (unsigned at = shape_.height(); at > level && !is_zero_chunk(id); --at) {
    const std::uint64_t place = index >> (10 * (at - level));
    id = node(id, at, place)->ids[(index >> (10 * (at - level - 1))) % map_fanout];
  }
  return id;
}

DiskTree::Node DiskTree::leaf(std::uint64_t index) {
  const ChunkId id = node_id(1, index);
  return is_zero_chunk(id) ? nullptr : node(id, 1, index);
}

void DiskTree::read_chunk(const DiskNode& leaf, std::size_t place, std::span<std::byte> bytes) {
  const DiskPatch* const patch = leaf.patch_at(place);
  if (is_zero_chunk(leaf.ids[place]))
    std::ranges::fill(bytes, std::byte{0});
  else
    chunks_.get(leaf.ids[place], bytes);
  if (patch == nullptr) return;
  std::vector<std::byte> changed(patch->length());
  chunks_.get(patch->id, changed);
  std::span<const std::byte> rest = changed;
  for (std::size_t block = 0; block * part_block_bytes < bytes.size(); ++block) {
    if ((patch->blocks >> block & 1) == 0) continue;
    std::ranges::copy(rest.first<part_block_bytes>(), bytes.subspan(block * part_block_bytes).begin());
    rest = rest.subspan(part_block_bytes);
  }
}

std::uint64_t DiskTree::skip_zeros(std::uint64_t number) {
  while (number < shape_.chunks()) {
    ChunkId id = root_;
    unsigned level = shape_.height();
    for (; level > 0 && !is_zero_chunk(id); --level) {
      const Node children = node(id, level, number / DiskShape::span(level));
      id = children->ids[number / DiskShape::span(level - 1) % map_fanout];
    }
    if (!is_zero_chunk(id)) return number;
    number = (number / DiskShape::span(level) + 1) * DiskShape::span(level);
  }
  return shape_.chunks();
}

}  // namespace stillpoint
