// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/direct-file.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

using namespace stillpoint;

TEST_CASE("aligned or not, all of it is written where it belongs") {
  std::string path = (std::filesystem::temp_directory_path() / "stillpoint-test-XXXXXX").native();
  const UniqueFd fd(::mkstemp(path.data()));
  REQUIRE(fd);
  const AlignedBytes storage = allocate_aligned(3 * direct_alignment + 100);
  const std::span<std::byte> bytes(storage.get(), 3 * direct_alignment + 100);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(i * 2654435761U >> 11U);
  CHECK(reinterpret_cast<std::uintptr_t>(storage.get()) % direct_alignment == 0);
  const DirectFile file(fd.get());
  file.pwrite(bytes.first(2 * direct_alignment), 0, path);                          // past the cache, where it can be
  file.pwrite(bytes.subspan(2 * direct_alignment), 2 * direct_alignment, path);     // a length that is not
  file.pwrite(bytes.subspan(0, direct_alignment), 5 * direct_alignment + 1, path);  // an offset that is not
  file.pwrite(bytes.subspan(1, direct_alignment), direct_alignment, path);          // an address that is not
  std::vector<std::byte> expected(6 * direct_alignment + 1);
  std::memcpy(expected.data(), bytes.data(), bytes.size());
  std::memcpy(expected.data() + 5 * direct_alignment + 1, bytes.data(), direct_alignment);
  std::memcpy(expected.data() + direct_alignment, bytes.data() + 1, direct_alignment);
  std::vector<std::byte> found(expected.size());
  pread_exactly(fd.get(), found, 0, path);
  CHECK((found == expected));
  std::filesystem::remove(path);
}

TEST_CASE("where nothing can be written it is said") {
  const UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  REQUIRE(full);
  const DirectFile file(full.get());
  CHECK(!file.is_direct());
  const AlignedBytes storage = allocate_aligned(direct_alignment);
  CHECK_THROWS_AS(file.pwrite(std::span(storage.get(), direct_alignment), 0, "/dev/full"), StorageError);
}
