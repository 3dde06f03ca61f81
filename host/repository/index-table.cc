// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/index-table.hh"

#include "common/errors.hh"
#include "host/repository/checksum.hh"
#include "host/repository/little-endian.hh"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace stillpoint {

namespace {

constexpr std::string_view table_magic = "STILLIDX";
constexpr std::uint32_t table_version = 1;
constexpr std::size_t table_header_bytes = 64;
constexpr std::size_t entry_bytes = 48;
/// Entries under one CRC, so that a part can be checked without reading the whole.
constexpr std::uint64_t block_entries = 1024;
constexpr unsigned max_fanout_bits = 24;

/// About sixteen entries to a bucket: one look into the fanout, then at most a few neighbouring lines of memory.
unsigned fanout_bits_for(std::uint64_t entries) {
  const unsigned width = static_cast<unsigned>(std::bit_width(entries / 16));
  return std::min(width, max_fanout_bits);
}

std::uint32_t bucket_of(const std::byte* id, unsigned bits) {
  if (bits == 0) return 0;
  const std::uint32_t top = std::to_integer<std::uint32_t>(id[0]) << 24 | std::to_integer<std::uint32_t>(id[1]) << 16 |
                            std::to_integer<std::uint32_t>(id[2]) << 8 | std::to_integer<std::uint32_t>(id[3]);
  return top >> (32 - bits);
}

std::uint64_t block_count(std::uint64_t entries) {
  return (entries + block_entries - 1) / block_entries;
}

}  // namespace

IndexTable::IndexTable(std::unique_ptr<ObjectView> view, std::string_view name) : view_(std::move(view)) {
  const auto fail = [&](std::string_view what) { throw Corruption(fmt::format("index {}: {}", name, what)); };
  const std::span<const std::byte> bytes = view_->bytes();
  if (bytes.size() < table_header_bytes || std::memcmp(bytes.data(), table_magic.data(), table_magic.size()) != 0)
    fail("it is no index");
  if (crc32c(bytes.first(table_header_bytes - 4)) != get_le<std::uint32_t>(bytes.data() + table_header_bytes - 4))
    fail("its header is damaged");
  if (get_le<std::uint32_t>(bytes.data() + 8) != table_version) fail("it has another format");
  pack_count_ = get_le<std::uint32_t>(bytes.data() + 12);
  entry_count_ = get_le<std::uint64_t>(bytes.data() + 16);
  fanout_bits_ = get_le<std::uint32_t>(bytes.data() + 24);
  if (entry_count_ > UINT32_MAX || fanout_bits_ > max_fanout_bits ||
      get_le<std::uint32_t>(bytes.data() + 28) != block_entries)
    fail("its header is out of bounds");
  const std::uint64_t buckets = std::uint64_t{1} << fanout_bits_;
  const std::uint64_t head =
      table_header_bytes + 16 * std::uint64_t{pack_count_} + 4 * (buckets + 1) + 4 * block_count(entry_count_);
  if (bytes.size() != head + entry_bytes * entry_count_) fail("it has another length than its header says");
  if (crc32c(bytes.subspan(table_header_bytes, head - table_header_bytes)) != get_le<std::uint32_t>(bytes.data() + 32))
    fail("its tables are damaged");
  packs_ = bytes.data() + table_header_bytes;
  fanout_ = packs_ + 16 * pack_count_;
  const std::byte* crcs = fanout_ + 4 * (buckets + 1);
  entries_ = bytes.data() + head;
  std::uint32_t last = 0;
  for (std::uint64_t i = 0; i <= buckets; ++i) {
    const std::uint32_t begin = get_le<std::uint32_t>(fanout_ + 4 * i);
    if (begin < last || begin > entry_count_) fail("its fanout is out of order");
    last = begin;
  }
  if (get_le<std::uint32_t>(fanout_) != 0 || last != entry_count_) fail("its fanout is incomplete");
  for (std::uint64_t i = 0; i < block_count(entry_count_); ++i) {
    const std::uint64_t begin = i * block_entries;
    const std::uint64_t count = std::min(block_entries, entry_count_ - begin);
    if (crc32c({entries_ + begin * entry_bytes, count * entry_bytes}) != get_le<std::uint32_t>(crcs + 4 * i))
      fail("its entries are damaged");
  }
}

PackId IndexTable::pack(std::size_t number) const noexcept {
  PackId id;
  std::memcpy(id.bytes.data(), packs_ + 16 * number, 16);
  return id;
}

IndexEntry IndexTable::entry(std::uint64_t number) const noexcept {
  const std::byte* from = entries_ + entry_bytes * number;
  IndexEntry entry;
  std::memcpy(entry.id.bytes.data(), from, 32);
  entry.pack = get_le<std::uint32_t>(from + 32);
  entry.offset = get_le<std::uint32_t>(from + 36);
  entry.stored = get_le<std::uint32_t>(from + 40);
  entry.plain = get_le<std::uint32_t>(from + 44);
  return entry;
}

std::uint64_t IndexTable::find(const ChunkId& id) const noexcept {
  const std::uint32_t bucket = bucket_of(id.bytes.data(), fanout_bits_);
  std::uint64_t low = get_le<std::uint32_t>(fanout_ + 4 * std::size_t{bucket});
  const std::uint64_t end = get_le<std::uint32_t>(fanout_ + 4 * (std::size_t{bucket} + 1));
  std::uint64_t high = end;
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    if (std::memcmp(entries_ + entry_bytes * middle, id.bytes.data(), 32) < 0)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == end || std::memcmp(entries_ + entry_bytes * low, id.bytes.data(), 32) != 0) return entry_count_;
  return low;
}

std::vector<std::byte> encode_index(std::span<const PackId> packs, std::vector<IndexEntry>& entries) {
  std::sort(entries.begin(), entries.end(), [](const IndexEntry& a, const IndexEntry& b) {
    const int order = std::memcmp(a.id.bytes.data(), b.id.bytes.data(), 32);
    return order != 0 ? order < 0 : std::pair(a.pack, a.offset) < std::pair(b.pack, b.offset);
  });
  const unsigned bits = fanout_bits_for(entries.size());
  const std::uint64_t buckets = std::uint64_t{1} << bits;
  const std::size_t head = table_header_bytes + 16 * packs.size() + 4 * (buckets + 1) + 4 * block_count(entries.size());
  std::vector<std::byte> bytes(head + entry_bytes * entries.size());
  std::byte* to = bytes.data() + table_header_bytes;
  for (const PackId& pack : packs) {
    std::memcpy(to, pack.bytes.data(), 16);
    to += 16;
  }
  std::byte* fanout = to;
  std::byte* crcs = fanout + 4 * (buckets + 1);
  std::byte* rows = bytes.data() + head;
  std::uint64_t bucket = 0;
  for (std::uint64_t i = 0; i < entries.size(); ++i) {
    const IndexEntry& entry = entries[i];
    for (; bucket <= bucket_of(entry.id.bytes.data(), bits); ++bucket)
      put_le(fanout + 4 * bucket, static_cast<std::uint32_t>(i));
    std::byte* row = rows + entry_bytes * i;
    std::memcpy(row, entry.id.bytes.data(), 32);
    put_le(row + 32, entry.pack);
    put_le(row + 36, entry.offset);
    put_le(row + 40, entry.stored);
    put_le(row + 44, entry.plain);
  }
  for (; bucket <= buckets; ++bucket)
    put_le(fanout + 4 * bucket, static_cast<std::uint32_t>(entries.size()));
  for (std::uint64_t i = 0; i < block_count(entries.size()); ++i) {
    const std::uint64_t begin = i * block_entries;
    const std::uint64_t count = std::min<std::uint64_t>(block_entries, entries.size() - begin);
    put_le(crcs + 4 * i, crc32c({rows + begin * entry_bytes, count * entry_bytes}));
  }
  std::memcpy(bytes.data(), table_magic.data(), table_magic.size());
  put_le(bytes.data() + 8, table_version);
  put_le(bytes.data() + 12, static_cast<std::uint32_t>(packs.size()));
  put_le(bytes.data() + 16, std::uint64_t{entries.size()});
  put_le(bytes.data() + 24, std::uint32_t{bits});
  put_le(bytes.data() + 28, static_cast<std::uint32_t>(block_entries));
  put_le(bytes.data() + 32, crc32c(std::span(bytes).subspan(table_header_bytes, head - table_header_bytes)));
  put_le(bytes.data() + table_header_bytes - 4, crc32c(std::span(bytes).first(table_header_bytes - 4)));
  return bytes;
}

}  // namespace stillpoint
