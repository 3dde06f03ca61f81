// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/map-node.hh"

#include "common/block.hh"
#include "common/errors.hh"
#include "host/repository/little-endian.hh"
#include "host/repository/pack.hh"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace stillpoint {

namespace {

constexpr std::uint32_t disk_magic = 0x444e5053;    // "SPND"
constexpr std::uint32_t stream_magic = 0x534e5053;  // "SPNS"
constexpr std::size_t header_bytes = 8;
constexpr std::size_t disk_patch_bytes = 42;
constexpr std::size_t piece_bytes = 48;
/// And 32 for each base.
constexpr std::size_t patch_bytes = 36;

[[noreturn]] void fail(const ChunkId& id, std::string_view what) {
  throw Corruption(fmt::format("map node {}: {}", to_hex(id), what));
}

std::vector<std::byte> start_node(std::uint32_t magic, unsigned level, std::size_t count, std::size_t entry_bytes) {
  if (level < 1 || level > max_map_level || count < 1 || count > map_fanout)
    throw std::length_error("a map node out of bounds");
  std::vector<std::byte> bytes(header_bytes + count * entry_bytes);
  put_le(bytes.data(), magic);
  put_le(bytes.data() + 4, static_cast<std::uint16_t>(level));
  put_le(bytes.data() + 6, static_cast<std::uint16_t>(count));
  return bytes;
}

unsigned level_of(std::span<const std::byte> bytes, std::uint32_t magic, const ChunkId& id) {
  if (bytes.size() < header_bytes || get_le<std::uint32_t>(bytes.data()) != magic) fail(id, "it is no such node");
  const unsigned level = get_le<std::uint16_t>(bytes.data() + 4);
  if (level < 1 || level > max_map_level) fail(id, "its level is out of bounds");
  return level;
}

/// How many children it has, and what stands behind them.
std::pair<std::size_t, std::span<const std::byte>> check_node(std::span<const std::byte> bytes, std::uint32_t magic,
                                                              unsigned level, std::size_t entry_bytes,
                                                              const ChunkId& id) {
  if (const unsigned found = level_of(bytes, magic, id); found != level)
    fail(id, fmt::format("it is of level {} where {} was expected", found, level));
  const std::size_t count = get_le<std::uint16_t>(bytes.data() + 6);
  if (count < 1 || count > map_fanout || bytes.size() < header_bytes + count * entry_bytes)
    fail(id, "its length does not fit its children");
  return {count, bytes.subspan(header_bytes + count * entry_bytes)};
}

void put_id(std::byte* to, const ChunkId& id) {
  std::memcpy(to, id.bytes.data(), id.bytes.size());
}

ChunkId get_id(const std::byte* from) {
  ChunkId id;
  std::memcpy(id.bytes.data(), from, id.bytes.size());
  return id;
}

/// What is left of a node's length behind a child of that length.
std::uint64_t subtract_length(std::uint64_t length, std::uint64_t child, const ChunkId& id) {
  if (child == 0 || child > length) fail(id, "its lengths do not add up");
  return length - child;
}

}  // namespace

std::uint32_t DiskPatch::length() const noexcept {
  return static_cast<std::uint32_t>(std::popcount(blocks)) * part_block_bytes;
}

const DiskPatch* DiskNode::patch_at(std::size_t place) const noexcept {
  const auto found = std::ranges::lower_bound(patches, place, {}, &DiskPatch::place);
  return found != patches.end() && found->place == place ? &*found : nullptr;
}

std::vector<std::byte> encode_disk_node(unsigned level, const DiskNode& node) {
  std::span<const ChunkId> ids = node.ids;
  while (!ids.empty() && is_zero_chunk(ids.back()))
    ids = ids.first(ids.size() - 1);
  std::vector<std::byte> bytes = start_node(disk_magic, level, ids.size(), 32);
  for (std::size_t i = 0; i < ids.size(); ++i)
    put_id(bytes.data() + header_bytes + 32 * i, ids[i]);
  std::size_t at = bytes.size();
  bytes.resize(at + node.patches.size() * disk_patch_bytes);
  for (const DiskPatch& patch : node.patches) {
    put_le(bytes.data() + at, patch.place);
    put_le(bytes.data() + at + 2, patch.blocks);
    put_id(bytes.data() + at + 10, patch.id);
    at += disk_patch_bytes;
  }
  return bytes;
}

DiskNode decode_disk_node(std::span<const std::byte> bytes, unsigned level, std::uint64_t children,
                          std::uint32_t chunk_bytes, const ChunkId& id) {
  auto [count, rest] = check_node(bytes, disk_magic, level, 32, id);
  if (count > children) fail(id, "it reaches behind the end of the disk");
  DiskNode node{std::vector<ChunkId>(map_fanout)};
  for (std::size_t i = 0; i < count; ++i)
    node.ids[i] = get_id(bytes.data() + header_bytes + 32 * i);
  if (is_zero_chunk(node.ids[count - 1])) fail(id, "it ends with a child of zeros");
  if (rest.size() % disk_patch_bytes != 0 || (level > 1 && !rest.empty()))
    fail(id, "its length does not fit its children");
  const std::uint64_t blocks_of_chunk = chunk_bytes / part_block_bytes;
  for (std::size_t next = 0; !rest.empty(); rest = rest.subspan(disk_patch_bytes)) {
    const DiskPatch patch{get_le<std::uint16_t>(rest.data()), get_le<std::uint64_t>(rest.data() + 2),
                          get_id(rest.data() + 10)};
    if (patch.place < next || patch.place >= count || is_zero_chunk(node.ids[patch.place]) || is_zero_chunk(patch.id))
      fail(id, "its patches do not fit its children");
    if (patch.blocks == 0 || static_cast<std::uint64_t>(std::bit_width(patch.blocks)) > blocks_of_chunk)
      fail(id, "a patch of blocks that are not there");
    next = patch.place + std::size_t{1};
    node.patches.push_back(patch);
  }
  return node;
}

std::vector<std::byte> encode_stream_node(unsigned level, std::span<const StreamEntry> entries) {
  std::vector<std::byte> bytes = start_node(stream_magic, level, entries.size(), 40);
  std::byte* to = bytes.data() + header_bytes;
  for (const StreamEntry& entry : entries) {
    put_id(to, entry.id);
    put_le(to + 32, entry.length);
    to += 40;
  }
  return bytes;
}

unsigned stream_node_level(std::span<const std::byte> bytes, const ChunkId& id) {
  return level_of(bytes, stream_magic, id);
}

std::vector<StreamEntry> decode_stream_node(std::span<const std::byte> bytes, unsigned level, std::uint64_t length,
                                            const ChunkId& id) {
  const auto [count, rest] = check_node(bytes, stream_magic, level, 40, id);
  if (!rest.empty()) fail(id, "its length does not fit its children");
  std::vector<StreamEntry> entries(count);
  const std::byte* from = bytes.data() + header_bytes;
  for (StreamEntry& entry : entries) {
    entry = {get_id(from), get_le<std::uint64_t>(from + 32)};
    length = subtract_length(length, entry.length, id);
    from += 40;
  }
  if (length != 0) fail(id, "its lengths do not add up");
  return entries;
}

namespace {

void append_patch(std::vector<std::byte>& bytes, std::uint16_t place, const StreamPiece& piece) {
  if (piece.bases.size() > max_patch_bases) throw std::length_error("a patch of too many bases");
  const std::size_t at = bytes.size();
  bytes.resize(at + patch_bytes + 32 * piece.bases.size());
  put_le(bytes.data() + at, place);
  put_le(bytes.data() + at + 2, static_cast<std::uint16_t>(piece.bases.size()));
  put_id(bytes.data() + at + 4, piece.patch);
  for (std::size_t i = 0; i < piece.bases.size(); ++i)
    put_id(bytes.data() + at + patch_bytes + 32 * i, piece.bases[i]);
}

}  // namespace

std::vector<std::byte> encode_stream_leaf(std::span<const StreamPiece> pieces) {
  std::vector<std::byte> bytes = start_node(stream_magic, 1, pieces.size(), piece_bytes);
  std::byte* to = bytes.data() + header_bytes;
  for (const StreamPiece& piece : pieces) {
    put_id(to, piece.id);
    put_le(to + 32, piece.length);
    put_le(to + 40, piece.sketch);
    to += piece_bytes;
  }
  for (std::size_t i = 0; i < pieces.size(); ++i)
    if (pieces[i].patched()) append_patch(bytes, static_cast<std::uint16_t>(i), pieces[i]);
  return bytes;
}

namespace {

void decode_patches(std::span<const std::byte> bytes, std::span<StreamPiece> pieces, const ChunkId& id) {
  std::size_t next = 0;
  while (!bytes.empty()) {
    if (bytes.size() < patch_bytes) fail(id, "a patch is cut short");
    const std::size_t place = get_le<std::uint16_t>(bytes.data());
    const std::size_t bases = get_le<std::uint16_t>(bytes.data() + 2);
    if (place < next || place >= pieces.size() || bases < 1 || bases > max_patch_bases ||
        bytes.size() < patch_bytes + 32 * bases)
      fail(id, "its patches do not fit its children");
    StreamPiece& piece = pieces[place];
    piece.patch = get_id(bytes.data() + 4);
    for (std::size_t i = 0; i < bases; ++i)
      piece.bases.push_back(get_id(bytes.data() + patch_bytes + 32 * i));
    if (is_zero_chunk(piece.id) || is_zero_chunk(piece.patch) || std::ranges::any_of(piece.bases, is_zero_chunk))
      fail(id, "a patch of or by zeros");
    if (piece.length > max_dump_chunk_bytes) fail(id, fmt::format("a patched piece of {} bytes", piece.length));
    next = place + 1;
    bytes = bytes.subspan(patch_bytes + 32 * bases);
  }
}

}  // namespace

std::vector<StreamPiece> decode_stream_leaf(std::span<const std::byte> bytes, std::uint64_t length, const ChunkId& id) {
  const auto [count, rest] = check_node(bytes, stream_magic, 1, piece_bytes, id);
  std::vector<StreamPiece> pieces(count);
  const std::byte* from = bytes.data() + header_bytes;
  for (StreamPiece& piece : pieces) {
    piece.id = get_id(from);
    piece.length = get_le<std::uint64_t>(from + 32);
    piece.sketch = get_le<std::uint64_t>(from + 40);
    length = subtract_length(length, piece.length, id);
    if (piece.length > max_chunk_bytes) fail(id, fmt::format("a piece of {} bytes", piece.length));
    from += piece_bytes;
  }
  if (length != 0) fail(id, "its lengths do not add up");
  decode_patches(rest, pieces, id);
  return pieces;
}

}  // namespace stillpoint
