// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/block.hh"
#include "tests/unit/host/repository/support.hh"

#include <doctest/doctest.h>

#include <algorithm>

using namespace stillpoint;
using namespace stillpoint::test;

namespace {

void put(Bytes& disk, std::size_t at, std::size_t length, std::uint64_t seed) {
  std::ranges::copy(random_bytes(length, seed), disk.begin() + static_cast<std::ptrdiff_t>(at));
}

}  // namespace

TEST_CASE("maps of different heights are compared") {
  const Scratch scratch;
  Repository::create(scratch.repository(), {.chunk_bytes = small_chunks, .key = std::nullopt});
  Repository repository(scratch.repository(), Repository::Mode::write);
  // 1024 chunks are one node.
  constexpr std::size_t node = std::size_t{1024} * small_chunks;
  Bytes low(node - 100);
  put(low, 0, 3 * small_chunks, 1);
  put(low, node - 2 * small_chunks, small_chunks, 2);
  Bytes high = low;
  high.resize(node + 20 * small_chunks + 1);
  put(high, node + 7 * small_chunks, small_chunks, 3);
  put(high, small_chunks, 10, 4);
  Bytes empty(node * 2);
  const DiskMap low_map = write_whole(repository, low);
  const DiskMap high_map = write_whole(repository, high);
  const DiskMap empty_map = write_whole(repository, empty);
  check_differences(repository, low_map, low, high_map, high);
  check_differences(repository, high_map, high, low_map, low);
  check_differences(repository, high_map, high, empty_map, empty);
  check_differences(repository, empty_map, empty, high_map, high);
  check_differences(repository, empty_map, empty, low_map, low);
  std::uint64_t told = 0;
  repository.compare_disks(low_map, high_map, [&](const Extent& extent) { told += extent.length; });
  CHECK(told == 2 * small_chunks);
  repository.compare_disks(high_map, high_map, [](const Extent&) { FAIL("a disk differs from itself"); });
}
