// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/checksum.hh"

#include <doctest/doctest.h>

#include <random>
#include <vector>

using namespace stillpoint;

namespace {

/// Every number of bytes in the last block, and lengths of chunks, in all pairs of which the two differ as they may.
constexpr std::size_t every_rest = 130;
constexpr std::array<std::size_t, 4> longer{4095, 65536, 256 << 10, 300001};

void check_pairs(ChunkHasher hash) {
  std::mt19937_64 random(7);
  std::vector<std::byte> bytes(longer.back() + 1);
  for (std::byte& byte : bytes)
    byte = static_cast<std::byte>(random());
  const auto check = [&](std::size_t first, std::size_t second) {
    CAPTURE(first);
    CAPTURE(second);
    // Not aligned, and not the same bytes.
    const auto a = std::span<const std::byte>(bytes).first(first);
    const auto b = std::span<const std::byte>(bytes).subspan(1, second);
    const std::array<ChunkId, 2> ids = hash(a, b);
    CHECK(to_hex(ids[0]) == to_hex(hash(a)));
    CHECK(to_hex(ids[1]) == to_hex(hash(b)));
  };
  for (std::size_t first = 0; first < every_rest; ++first)
    for (std::size_t second = 0; second < every_rest; ++second)
      check(first, second);
  for (const std::size_t first : longer)
    for (const std::size_t second : {std::size_t{0}, std::size_t{64}, longer[0], longer[1], longer[2], longer[3]}) {
      check(first, second);
      check(second, first);
    }
}

}  // namespace

TEST_CASE("two chunks hashed beside each other have the ids that they have alone") {
  SUBCASE("by SHA-256") {
    check_pairs(ChunkHasher());
  }
  SUBCASE("by HMAC") {
    check_pairs(ChunkHasher(random_secret()));
  }
}

TEST_CASE("an id is that of FIPS 180-4's example") {
  const std::array<std::byte, 3> abc{std::byte{'a'}, std::byte{'b'}, std::byte{'c'}};
  ChunkHasher hash;
  constexpr std::string_view id = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  CHECK(to_hex(hash(abc)) == id);
  for (const ChunkId& of_pair : hash(abc, abc))
    CHECK(to_hex(of_pair) == id);
}
