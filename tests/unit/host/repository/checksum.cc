// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/checksum.hh"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdint>
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

#ifdef __x86_64__
namespace {

/// Bits 128 to 255 of the vector registers. Nothing else: what clears memory or copies it cleans them.
[[gnu::target("avx"), gnu::noinline]] void store_upper_halves(std::uint64_t* to) {
  asm volatile(
      "vextractf128 $1, %%ymm0, 0(%0)\n"
      "vextractf128 $1, %%ymm1, 16(%0)\n"
      "vextractf128 $1, %%ymm2, 32(%0)\n"
      "vextractf128 $1, %%ymm3, 48(%0)\n"
      "vextractf128 $1, %%ymm4, 64(%0)\n"
      "vextractf128 $1, %%ymm5, 80(%0)\n"
      "vextractf128 $1, %%ymm6, 96(%0)\n"
      "vextractf128 $1, %%ymm7, 112(%0)\n"
      "vextractf128 $1, %%ymm8, 128(%0)\n"
      "vextractf128 $1, %%ymm9, 144(%0)\n"
      "vextractf128 $1, %%ymm10, 160(%0)\n"
      "vextractf128 $1, %%ymm11, 176(%0)\n"
      "vextractf128 $1, %%ymm12, 192(%0)\n"
      "vextractf128 $1, %%ymm13, 208(%0)\n"
      "vextractf128 $1, %%ymm14, 224(%0)\n"
      "vextractf128 $1, %%ymm15, 240(%0)\n"
      :
      : "r"(to)
      : "memory");
}

}  // namespace

TEST_CASE("nothing is left in the registers that makes what is hashed next slow") {
  if (__builtin_cpu_supports("avx") == 0) return;
  const std::vector<std::byte> bytes(100000, std::byte{7});
  const std::vector<std::byte> zeros(100000);
  for (const bool is_crc : {true, false}) {
    CAPTURE(is_crc);
    std::array<std::uint64_t, 32> halves;
    halves.fill(1);
    if (is_crc)
      static_cast<void>(crc32c(bytes));
    else
      static_cast<void>(is_zero(zeros));
    store_upper_halves(halves.data());
    CHECK(std::ranges::count(halves, 0) == 32);
  }
}
#endif
