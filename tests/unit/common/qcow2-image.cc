// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/qcow2-image.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

using namespace stillpoint;

TEST_CASE("an empty qcow2 image has the size that was asked for") {
  std::string directory = "/tmp/stillpoint-test-XXXXXX";
  REQUIRE(::mkdtemp(directory.data()) != nullptr);
  struct Remove {
    const std::string& directory;
    ~Remove() { std::filesystem::remove_all(directory); }
  } const remove{directory};
  create_qcow2(directory + "/disk", 5 << 20);
  std::string head(32, '\0');
  std::ifstream(directory + "/disk", std::ios::binary).read(head.data(), 32);
  CHECK(head.substr(0, 4) == "QFI\xfb");
  // The guest's size in bytes, big-endian, at 24.
  CHECK(head.substr(24) == std::string("\0\0\0\0\0\x50\0\0", 8));
  CHECK_THROWS_WITH_AS(create_qcow2(directory + "/none/disk", 5 << 20), doctest::Contains("cannot create"),
                       StorageError);
}
