// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/partitions.hh"

#include "host/capture/worker/disk-bytes.hh"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string_view>

namespace stillpoint {
namespace {

using Sector = std::array<std::byte, 512>;
constexpr std::size_t mbr_table = 446;
constexpr std::size_t most_partitions = 256;

/// Adds a partition of whole sectors, cut at the disk's end; what begins beyond it is left out.
void add(std::vector<Partition>& partitions, const DiskRange& disk, std::uint32_t number, std::uint64_t sector,
         std::uint64_t first, std::uint64_t count) {
  if (count == 0 || first >= disk.size / sector || partitions.size() >= most_partitions) return;
  const std::uint64_t offset = first * sector;
  partitions.push_back({number, offset, std::min(count, (disk.size - offset) / sector) * sector});
}

struct MbrEntry {
  std::uint8_t type;
  std::uint64_t first;
  std::uint64_t count;
};

MbrEntry mbr_entry(const Sector& sector, std::size_t index) {
  const std::size_t at = mbr_table + 16 * index;
  return {static_cast<std::uint8_t>(sector[at + 4]), number_at(sector, at + 8, 4), number_at(sector, at + 12, 4)};
}

bool is_extended(std::uint8_t type) {
  return type == 0x05 || type == 0x0f || type == 0x85;
}

bool read_mbr(const DiskRange& disk, std::uint64_t offset, Sector& sector) {
  return disk.read(sector, offset) && sector[510] == std::byte{0x55} && sector[511] == std::byte{0xaa};
}

/// The chain of tables inside an extended partition: each has a partition, relative to itself, and the next table,
/// relative to the first.
void add_logical(std::vector<Partition>& partitions, const DiskRange& disk, std::uint64_t begin) {
  std::uint32_t number = 5;
  std::uint64_t at = begin;
  for (std::size_t tables = 0; tables < most_partitions; ++tables) {
    Sector sector;
    if (at >= disk.size / 512 || !read_mbr(disk, at * 512, sector)) return;
    std::optional<std::uint64_t> next;
    for (std::size_t i = 0; i < 4; ++i) {
      const MbrEntry entry = mbr_entry(sector, i);
      if (entry.type == 0 || entry.count == 0) continue;
      if (!is_extended(entry.type))
        add(partitions, disk, number++, 512, at + entry.first, entry.count);
      else if (!next)
        next = begin + entry.first;
    }
    if (!next) return;
    at = *next;
  }
}

std::vector<Partition> read_mbr_partitions(const DiskRange& disk) {
  std::vector<Partition> partitions;
  Sector sector;
  if (!read_mbr(disk, 0, sector)) return partitions;
  for (std::size_t i = 0; i < 4; ++i) {
    // A boot sector of another kind has code where the table's flags are.
    const auto flag = static_cast<std::uint8_t>(sector[mbr_table + 16 * i]);
    if (flag != 0 && flag != 0x80) return partitions;
  }
  std::vector<std::uint64_t> extended;
  for (std::size_t i = 0; i < 4; ++i) {
    const MbrEntry entry = mbr_entry(sector, i);
    if (entry.type == 0) continue;
    if (is_extended(entry.type))
      extended.push_back(entry.first);
    else
      add(partitions, disk, static_cast<std::uint32_t>(i + 1), 512, entry.first, entry.count);
  }
  if (!extended.empty()) add_logical(partitions, disk, extended.front());
  return partitions;
}

/// The entries that a good header at `lba` vouches for.
std::optional<std::vector<std::byte>> gpt_entries(const DiskRange& disk, std::uint64_t sector, std::uint64_t lba,
                                                  std::size_t& entry_size) {
  std::vector<std::byte> header(sector);
  if (lba >= disk.size / sector || !disk.read(header, lba * sector)) return std::nullopt;
  if (std::memcmp(header.data(), "EFI PART", 8) != 0) return std::nullopt;
  const std::uint64_t header_size = number_at(header, 12, 4);
  if (header_size < 92 || header_size > sector) return std::nullopt;
  const std::uint64_t header_crc = number_at(header, 16, 4);
  std::fill_n(header.begin() + 16, 4, std::byte{0});
  if (~plain_crc32(~0U, std::span(header).first(header_size)) != header_crc) return std::nullopt;
  if (number_at(header, 24, 8) != lba) return std::nullopt;
  const std::uint64_t table = number_at(header, 72, 8);
  const std::uint64_t count = number_at(header, 80, 4);
  entry_size = number_at(header, 84, 4);
  if (count > 1024 || entry_size < 128 || entry_size > 1024 || table >= disk.size / sector) return std::nullopt;
  std::vector<std::byte> entries(count * entry_size);
  if (!disk.read(entries, table * sector)) return std::nullopt;
  if (~plain_crc32(~0U, entries) != number_at(header, 88, 4)) return std::nullopt;
  return entries;
}

std::vector<Partition> read_gpt_partitions(const DiskRange& disk) {
  for (const std::uint64_t sector : {std::uint64_t{512}, std::uint64_t{4096}}) {
    if (disk.size < 4 * sector) continue;
    std::size_t entry_size = 0;
    auto entries = gpt_entries(disk, sector, 1, entry_size);
    if (!entries) entries = gpt_entries(disk, sector, disk.size / sector - 1, entry_size);
    if (!entries) continue;
    std::vector<Partition> partitions;
    for (std::size_t i = 0; i * entry_size < entries->size(); ++i) {
      const auto entry = std::span(*entries).subspan(i * entry_size, entry_size);
      if (std::all_of(entry.begin(), entry.begin() + 16, [](std::byte b) { return b == std::byte{0}; })) continue;
      const std::uint64_t first = number_at(entry, 32, 8);
      const std::uint64_t last = number_at(entry, 40, 8);
      if (last < first || last == UINT64_MAX) continue;
      add(partitions, disk, static_cast<std::uint32_t>(i + 1), sector, first, last - first + 1);
    }
    return partitions;
  }
  return {};
}

}  // namespace

std::vector<Partition> read_partitions(const DiskRange& disk) {
  // A GPT announces itself by an MBR with one partition of type 0xee. Without that Linux does not look for it.
  Sector sector;
  if (!read_mbr(disk, 0, sector)) return {};
  for (std::size_t i = 0; i < 4; ++i)
    if (mbr_entry(sector, i).type == 0xee) return read_gpt_partitions(disk);
  return read_mbr_partitions(disk);
}

}  // namespace stillpoint
