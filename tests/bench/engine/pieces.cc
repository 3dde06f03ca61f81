// SPDX-License-Identifier: LGPL-2.1-or-later
// The inner pieces of the engine, each by itself on one core (Google Benchmark).
#include "host/repository/checksum.hh"
#include "host/repository/gear.hh"
#include "host/repository/index-table.hh"
#include "host/repository/map-node.hh"
#include "host/repository/record-seal.hh"

#include <benchmark/benchmark.h>
#include <zstd.h>

#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

using namespace stillpoint;

namespace {

constexpr std::size_t chunk = 256 << 10;

std::vector<std::byte> noise(std::size_t length) {
  std::mt19937_64 random(1);
  std::vector<std::byte> bytes(length);
  for (std::size_t i = 0; i + 8 <= length; i += 8) {
    const std::uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  return bytes;
}

template <typename Work>
void over_a_chunk(benchmark::State& state, std::vector<std::byte> bytes, const Work& work) {
  for (auto _ : state)
    benchmark::DoNotOptimize(work(bytes));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes.size()));
}

void zero_check(benchmark::State& state) {
  over_a_chunk(state, std::vector<std::byte>(chunk), [](const auto& bytes) { return is_zero(bytes); });
}
void checksum(benchmark::State& state) {
  over_a_chunk(state, noise(chunk), [](const auto& bytes) { return crc32c(bytes); });
}
void chunk_id(benchmark::State& state) {
  ChunkHasher hash;
  over_a_chunk(state, noise(chunk), [&](const auto& bytes) { return hash(bytes); });
}
void keyed_chunk_id(benchmark::State& state) {
  Secret key;
  ChunkHasher hash(key);
  over_a_chunk(state, noise(chunk), [&](const auto& bytes) { return hash(bytes); });
}
void cutting(benchmark::State& state) {
  GearChunker chunker;
  over_a_chunk(state, noise(4 << 20), [&](std::span<const std::byte> bytes) {
    std::size_t cuts = 0;
    while (!bytes.empty()) {
      const GearChunker::Result result = chunker.feed(bytes);
      cuts += result.cut ? 1 : 0;
      bytes = bytes.subspan(result.taken);
    }
    return cuts;
  });
}
void node(benchmark::State& state) {
  std::vector<ChunkId> ids(map_fanout);
  const std::vector<std::byte> bytes = noise(map_fanout * 32);
  std::memcpy(ids.data(), bytes.data(), bytes.size());
  for (auto _ : state)
    benchmark::DoNotOptimize(decode_disk_node(encode_disk_node(1, {ids}), 1, map_fanout, 256 << 10, ids[0]));
  state.SetItemsProcessed(state.iterations());
}
void lookup(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  std::vector<IndexEntry> entries(count);
  const std::vector<std::byte> bytes = noise(count * 32);
  for (std::size_t i = 0; i < count; ++i)
    std::memcpy(entries[i].id.bytes.data(), bytes.data() + 32 * i, 32);
  const std::vector<PackId> packs(1);
  const IndexTable table(memory_view(encode_index(packs, entries)), "benchmark");
  std::size_t at = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(table.find(entries[at].id));
    at = (at + 7919) % count;
  }
  state.SetItemsProcessed(state.iterations());
}

BENCHMARK(zero_check);
BENCHMARK(checksum);
BENCHMARK(chunk_id);
BENCHMARK(keyed_chunk_id);
BENCHMARK(cutting);
BENCHMARK(node);
BENCHMARK(lookup)->Arg(1 << 14)->Arg(1 << 21);

}  // namespace

BENCHMARK_MAIN();
