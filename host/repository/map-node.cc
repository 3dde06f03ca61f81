// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/map-node.hh"

#include "common/errors.hh"
#include "host/repository/little-endian.hh"

#include <fmt/format.h>

#include <cstring>
#include <stdexcept>

namespace stillpoint {

namespace {

constexpr std::uint32_t disk_magic = 0x444e5053;    // "SPND"
constexpr std::uint32_t stream_magic = 0x534e5053;  // "SPNS"
constexpr std::size_t header_bytes = 8;

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

std::size_t check_node(std::span<const std::byte> bytes, std::uint32_t magic, unsigned level, std::size_t entry_bytes,
                       const ChunkId& id) {
  if (const unsigned found = level_of(bytes, magic, id); found != level)
    fail(id, fmt::format("it is of level {} where {} was expected", found, level));
  const std::size_t count = get_le<std::uint16_t>(bytes.data() + 6);
  if (count < 1 || count > map_fanout || bytes.size() != header_bytes + count * entry_bytes)
    fail(id, "its length does not fit its children");
  return count;
}

}  // namespace

std::vector<std::byte> encode_disk_node(unsigned level, std::span<const ChunkId> ids) {
  while (!ids.empty() && is_zero_chunk(ids.back()))
    ids = ids.first(ids.size() - 1);
  std::vector<std::byte> bytes = start_node(disk_magic, level, ids.size(), 32);
  for (std::size_t i = 0; i < ids.size(); ++i)
    std::memcpy(bytes.data() + header_bytes + 32 * i, ids[i].bytes.data(), 32);
  return bytes;
}

std::vector<ChunkId> decode_disk_node(std::span<const std::byte> bytes, unsigned level, std::uint64_t children,
                                      const ChunkId& id) {
  const std::size_t count = check_node(bytes, disk_magic, level, 32, id);
  if (count > children) fail(id, "it reaches behind the end of the disk");
  std::vector<ChunkId> ids(map_fanout);
  for (std::size_t i = 0; i < count; ++i)
    std::memcpy(ids[i].bytes.data(), bytes.data() + header_bytes + 32 * i, 32);
  if (is_zero_chunk(ids[count - 1])) fail(id, "it ends with a child of zeros");
  return ids;
}

std::vector<std::byte> encode_stream_node(unsigned level, std::span<const StreamEntry> entries) {
  std::vector<std::byte> bytes = start_node(stream_magic, level, entries.size(), 40);
  std::byte* to = bytes.data() + header_bytes;
  for (const StreamEntry& entry : entries) {
    std::memcpy(to, entry.id.bytes.data(), 32);
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
  const std::size_t count = check_node(bytes, stream_magic, level, 40, id);
  std::vector<StreamEntry> entries(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::byte* from = bytes.data() + header_bytes + 40 * i;
    std::memcpy(entries[i].id.bytes.data(), from, 32);
    entries[i].length = get_le<std::uint64_t>(from + 32);
    if (entries[i].length == 0 || entries[i].length > length) fail(id, "its lengths do not add up");
    length -= entries[i].length;
  }
  if (length != 0) fail(id, "its lengths do not add up");
  return entries;
}

}  // namespace stillpoint
