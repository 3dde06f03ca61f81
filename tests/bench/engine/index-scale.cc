// SPDX-License-Identifier: LGPL-2.1-or-later
// index-scale DIRECTORY CHUNKS: an index of so many chunks as years of backups leave it, in a directory of its own, and
// what a backup pays for it: time to open it, lookups, memory. The packs are there in name and size only.
#include "common/clock.hh"
#include "host/repository/directory-store.hh"
#include "host/repository/index.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

using namespace stillpoint;

namespace {

constexpr std::uint64_t table_chunks = 2'000'000;  // near the longest that merging makes
constexpr std::uint64_t pack_chunks = 256;         // 256 KiB each
constexpr std::uint32_t record_bytes = 200'000;

/// The same for the same number, and spread evenly, as hashes are.
ChunkId id_of(std::uint64_t number) {
  ChunkId id;
  std::mt19937_64 random(number);
  for (std::size_t i = 0; i < 4; ++i) {
    const std::uint64_t word = random();
    std::memcpy(id.bytes.data() + 8 * i, &word, 8);
  }
  return id;
}

void make_pack(const std::filesystem::path& root, const PackId& id) {
  const std::filesystem::path path = root / object_name(id);
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path).flush();
  std::filesystem::resize_file(path, pack_bytes);
}

void make(const std::filesystem::path& root, std::uint64_t chunks) {
  DirectoryStore store(root, StoreAccess::create);
  for (std::uint64_t begin = 0; begin < chunks; begin += table_chunks) {
    const std::uint64_t end = std::min(chunks, begin + table_chunks);
    std::vector<PackId> packs;
    std::vector<IndexEntry> entries;
    for (std::uint64_t i = begin; i < end; ++i) {
      if ((i - begin) % pack_chunks == 0) {
        packs.push_back(random_pack_id());
        make_pack(root, packs.back());
      }
      const auto offset =
          static_cast<std::uint32_t>(pack_header_bytes + (i - begin) % pack_chunks * (record_bytes + 64));
      entries.push_back({id_of(i), static_cast<std::uint32_t>(packs.size() - 1), offset, record_bytes, 262'144});
    }
    store.put(fmt::format("index/{:032x}", begin), encode_index(packs, entries));
  }
}

/// "RssAnon" and others of proc(5), in bytes.
std::uint64_t memory(std::string_view what) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(what)) return std::strtoull(line.c_str() + what.size() + 1, nullptr, 10) * 1024;
  return 0;
}

double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    fmt::print(stderr, "usage: index-scale DIRECTORY CHUNKS\n");
    return 2;
  }
  const std::filesystem::path root = argv[1];
  const std::uint64_t chunks = std::strtoull(argv[2], nullptr, 10);
  if (!std::filesystem::exists(root)) make(root, chunks);
  DirectoryStore store(root, StoreAccess::write);
  auto begin = SteadyClock::now();
  Index index(store, std::array<std::byte, 16>{}, true);
  const double opened = seconds_since(begin);
  const std::uint64_t anonymous = memory("RssAnon:");
  const std::uint64_t mapped = memory("RssFile:");

  constexpr std::uint64_t lookups = 200'000;
  std::mt19937_64 random(1);
  std::vector<ChunkId> ids;
  for (std::uint64_t i = 0; i < lookups; ++i)
    ids.push_back(id_of(random() % chunks));
  begin = SteadyClock::now();
  std::uint64_t found = 0;
  for (const ChunkId& id : ids)
    found += index.length_of(id) ? 1 : 0;
  const double known = seconds_since(begin);
  for (std::uint64_t i = 0; i < lookups; ++i)
    ids[i] = id_of(chunks + i);
  begin = SteadyClock::now();
  std::uint64_t missed = 0;
  for (const ChunkId& id : ids)
    missed += index.length_of(id) ? 0 : 1;
  const double unknown = seconds_since(begin);
  if (found != lookups || missed != lookups || index.size() != chunks) {
    fmt::print(stderr, "index-scale: {} of {} found, {} missed, {} in it\n", found, lookups, missed, index.size());
    return 1;
  }
  fmt::print("| {} M | {:.1f} | {:.2f} | {:.1f} | {:.1f} | {:.0f} | {:.0f} |\n", chunks / 1'000'000,
             static_cast<double>(chunks) * 262144 / 1e12, opened, known / lookups * 1e6, unknown / lookups * 1e6,
             static_cast<double>(anonymous) / 1e6, static_cast<double>(mapped) / 1e6);
  return 0;
}
