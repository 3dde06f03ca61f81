// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/block.hh"
#include "common/errors.hh"
#include "host/repository/map-node.hh"
#include "tests/unit/host/repository/support.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <vector>

using namespace stillpoint;
using namespace stillpoint::test;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t block = part_block_bytes;
constexpr std::size_t chunk = 4 * block;

/// An incremental as a capture makes it: `changed` are numbers of blocks. Returns the map; `parts` counts the chunks of
/// which a part was taken.
DiskMap write_blocks(Repository& repository, const Bytes& disk, const DiskMap& base,
                     const std::set<std::size_t>& changed, StoredCounts& counts, std::size_t& parts) {
  const std::unique_ptr<DiskWriter> writer = repository.write_disk(disk.size(), base);
  std::map<std::uint64_t, std::uint64_t> chunks;
  for (const std::size_t number : changed)
    chunks[number / 4] |= std::uint64_t{1} << number % 4;
  for (const auto& [number, blocks] : chunks) {
    const auto whole = std::span(disk).subspan(number * chunk, std::min(chunk, disk.size() - number * chunk));
    if (whole.size() == chunk && blocks != 15) {
      if (std::optional<ChunkSink::Part> part = writer->acquire_part(number, blocks)) {
        REQUIRE((part->blocks & blocks) == blocks);
        std::span<std::byte> to = part->buffer.bytes();
        REQUIRE(to.size() == static_cast<std::size_t>(std::popcount(part->blocks)) * block);
        for (std::size_t i = 0; i < 4; ++i) {
          if ((part->blocks >> i & 1) == 0) continue;
          std::ranges::copy(whole.subspan(i * block, block), to.begin());
          to = to.subspan(block);
        }
        writer->submit_part(number, std::move(*part));
        ++parts;
        continue;
      }
    }
    ChunkBuffer buffer = writer->acquire(number);
    std::ranges::copy(whole, buffer.bytes().begin());
    writer->submit(number, std::move(buffer));
  }
  const DiskMap map = writer->finish();
  counts = writer->counts();
  return map;
}

void change(Bytes& disk, std::size_t number, std::uint64_t seed) {
  const std::size_t at = number * block;
  const Bytes bytes = random_bytes(std::min(block, disk.size() - at), seed);
  std::ranges::copy(bytes, disk.begin() + static_cast<std::ptrdiff_t>(at));
}

}  // namespace

TEST_CASE("an increment of scattered blocks stores these and no whole chunks") {
  const Scratch scratch;
  Repository::create(scratch.repository(), {});
  Repository repository(scratch.repository(), Repository::Mode::write);
  Bytes disk = random_bytes(chunk * 100, 1);
  const DiskMap base = write_whole(repository, disk);
  static_cast<void>(commit(repository, "web1", base));
  std::set<std::size_t> changed;
  for (std::size_t number = 2; number < 400; number += 9) {
    change(disk, number, 1000 + number);
    changed.insert(number);
  }
  StoredCounts counts;
  std::size_t parts = 0;
  const DiskMap map = write_blocks(repository, disk, base, changed, counts, parts);
  CHECK(parts == changed.size());
  CHECK(counts.stored < changed.size() * (block + 300) + 20000);
  CHECK((read_whole(repository, map) == disk));
  CHECK((map.root != base.root));
}

TEST_CASE("increments upon increments read as the disk was each time") {
  std::mt19937_64 random(7);
  for (int round = 0; round < 3; ++round) {
    const Scratch scratch;
    Repository::create(scratch.repository(), {});
    Repository repository(scratch.repository(), Repository::Mode::write);
    Bytes disk = random_bytes(chunk * 40 + 1000, random());
    std::fill_n(disk.begin() + 10 * chunk, 5 * chunk, std::byte{0});
    DiskMap map = write_whole(repository, disk);
    std::vector<Manifest> manifests{commit(repository, "web1", map)};
    std::vector<Bytes> contents{disk};
    std::size_t parts = 0;
    for (int night = 0; night < 12; ++night) {
      std::set<std::size_t> changed;
      const std::size_t before = disk.size();
      if (night == 5) disk.resize(chunk * 45 + 70000, std::byte{3});  // it grows, and then shrinks into a patched chunk
      if (night == 9) disk.resize(chunk * 20 + 5000);
      const std::size_t blocks = (disk.size() + block - 1) / block;
      for (std::size_t number = before / block; number < blocks; ++number)
        changed.insert(number);
      for (int i = 0; i < 20; ++i)
        changed.insert(random() % blocks);
      for (const std::size_t number : changed) {
        if (random() % 8 == 0)
          std::fill_n(disk.begin() + static_cast<std::ptrdiff_t>(number * block),
                      std::min(block, disk.size() - number * block), std::byte{0});
        else
          change(disk, number, random());
      }
      StoredCounts counts;
      map = write_blocks(repository, disk, map, changed, counts, parts);
      manifests.push_back(
          commit(repository, "web1", map, std::nullopt, fmt::format("2026-11-{:02}T08:20:12Z", night + 1)));
      contents.push_back(disk);
    }
    CHECK(parts > 60);
    for (std::size_t i = 1; i < contents.size(); ++i) {
      check_differences(repository, manifests[i - 1].disks[0].map, contents[i - 1], manifests[i].disks[0].map,
                        contents[i]);
      check_differences(repository, manifests[i].disks[0].map, contents[i], manifests[i - 1].disks[0].map,
                        contents[i - 1]);
    }
    for (std::size_t i = 0; i < contents.size(); ++i) {
      const DiskMap at = repository.load(manifests[i].name).disks[0].map;
      REQUIRE((read_whole(repository, at) == contents[i]));
      // In small pieces too, across the borders of blocks and chunks.
      const std::unique_ptr<BlockReader> reader = repository.open_disk(at);
      for (int piece = 0; piece < 50; ++piece) {
        const std::size_t offset = random() % contents[i].size();
        Bytes bytes(std::min<std::size_t>(1 + random() % 300000, contents[i].size() - offset));
        reader->pread(bytes, offset);
        REQUIRE(std::equal(bytes.begin(), bytes.end(), contents[i].begin() + static_cast<std::ptrdiff_t>(offset)));
      }
    }
    CHECK(is_whole(repository));

    // What the last one is made of is kept when all others are gone.
    for (std::size_t i = 0; i + 1 < manifests.size(); ++i)
      repository.remove(manifests[i].name);
    make_packs_old(scratch.repository());
    static_cast<void>(repository.reclaim({}));
    Repository again(scratch.repository(), Repository::Mode::write);
    CHECK((read_whole(again, again.load(manifests.back().name).disks[0].map) == contents.back()));
    CHECK(is_whole(again));
  }
}

TEST_CASE("a damaged patch is seen, and a chunk that is stored as a whole does without it") {
  const Quiet quiet;
  const Scratch scratch;
  Repository::create(scratch.repository(), {});
  Bytes disk = random_bytes(chunk * 4, 1);
  DiskMap base;
  DiskMap map;
  StoredCounts counts;
  std::size_t parts = 0;
  {
    Repository repository(scratch.repository(), Repository::Mode::write);
    base = write_whole(repository, disk);
    static_cast<void>(commit(repository, "web1", base));
    change(disk, 5, 2);
    map = write_blocks(repository, disk, base, {5}, counts, parts);
    static_cast<void>(commit(repository, "web1", map, std::nullopt, "2026-11-23T08:20:12Z"));
  }
  REQUIRE(parts == 1);
  std::vector<fs::path> packs = files_below(fs::path(scratch.repository()) / "packs");
  std::ranges::sort(packs, {}, [](const fs::path& pack) { return fs::file_size(pack); });
  flip(packs.front(), 1000, std::byte{1});
  Repository repository(scratch.repository(), Repository::Mode::write);
  CHECK_THROWS_AS(static_cast<void>(read_whole(repository, map)), Corruption);
  VerifyOptions options;
  options.read_percent = 100;
  const VerifyResult result = repository.verify({}, options);
  REQUIRE(result.damaged.size() == 1);
  CHECK(result.damaged[0].name == "web1@2026-11-23T08:20:12Z");
  CHECK(!repository.is_whole(map));
  for (const std::size_t number : {4U, 6U, 7U})
    change(disk, number, number);
  const DiskMap after = write_blocks(repository, disk, map, {4, 5, 6, 7}, counts, parts);
  CHECK((read_whole(repository, after) == disk));
}

TEST_CASE("a disk's node of patches is read as it was written, and nothing else is") {
  ChunkId one;
  one.bytes[0] = std::byte{1};
  ChunkId two = one;
  two.bytes[1] = std::byte{2};
  DiskNode node{{one, {}, two, one}, {{0, 1, two}, {3, 12, one}}};
  const std::vector<std::byte> bytes = encode_disk_node(1, node);
  const DiskNode read = decode_disk_node(bytes, 1, 4, chunk, one);
  CHECK(read.ids.size() == map_fanout);
  REQUIRE(read.patches.size() == 2);
  CHECK(read.patch_at(0)->id == two);
  CHECK(read.patch_at(1) == nullptr);
  CHECK(read.patch_at(3)->blocks == 12);
  CHECK(read.patch_at(3)->length() == 2 * block);
  const auto refused = [&](const std::vector<std::byte>& wrong, unsigned level = 1, std::uint64_t children = 4,
                           std::uint32_t chunk_bytes = chunk) {
    CHECK_THROWS_AS(static_cast<void>(decode_disk_node(wrong, level, children, chunk_bytes, one)), Corruption);
  };
  refused(bytes, 1, 3);
  refused(bytes, 1, 4, 3 * block);  // blocks behind the end of a chunk
  refused(bytes, 2);
  std::vector<std::byte> wrong = bytes;
  wrong[4] = std::byte{2};
  refused(wrong, 2);  // patches are level 1's
  wrong = bytes;
  wrong.pop_back();
  refused(wrong);
  const std::size_t first = 8 + 4 * 32;
  for (const std::byte place : {std::byte{1}, std::byte{3}, std::byte{4}}) {  // zeros, twice the same, none such
    wrong = bytes;
    wrong[first] = place;
    refused(wrong);
  }
  wrong = bytes;
  wrong[first + 2] = std::byte{0};
  refused(wrong);
  wrong = bytes;
  std::memset(wrong.data() + first + 10, 0, 32);
  refused(wrong);
}
