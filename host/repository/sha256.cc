// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/sha256.hh"

#include <algorithm>
#include <cstring>
#include <utility>

#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>

#define WITH_SHA [[gnu::target("sha,avx")]]
#define WITH_SHA_INLINE [[gnu::target("sha,avx"), gnu::always_inline]] inline
#else
#include <exception>
#endif

namespace stillpoint::sha256 {

State initial() noexcept {
  return {{0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667}, {0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372}};
}

#ifdef __x86_64__

namespace {

alignas(16) constexpr std::array<std::uint32_t, 64> round_constants{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/// One message at one block: its state, and the four groups of four words that the next rounds use.
struct Lane {
  __m128i abef;
  __m128i cdgh;
  __m128i words[4];
};

WITH_SHA_INLINE __m128i load(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}

WITH_SHA_INLINE Lane load_lane(const State& state) {
  return {load(state.abef.data()), load(state.cdgh.data()), {}};
}

WITH_SHA_INLINE State to_state(const Lane& lane) {
  State state{};
  std::memcpy(state.abef.data(), &lane.abef, sizeof lane.abef);
  std::memcpy(state.cdgh.data(), &lane.cdgh, sizeof lane.cdgh);
  return state;
}

WITH_SHA_INLINE void load_words(Lane& lane, const std::byte* block) {
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  for (std::size_t i = 0; i < 4; ++i)
    lane.words[i] = _mm_shuffle_epi8(load(block + 16 * i), big_endian);
}

/// Rounds 4 x Group to 4 x Group + 3, and the words for those sixteen rounds later.
template <std::size_t Group>
WITH_SHA_INLINE void four_rounds(Lane& lane) {
  auto& w = lane.words;
  const __m128i sum = _mm_add_epi32(w[Group % 4], load(round_constants.data() + 4 * Group));
  lane.cdgh = _mm_sha256rnds2_epu32(lane.cdgh, lane.abef, sum);
  lane.abef = _mm_sha256rnds2_epu32(lane.abef, lane.cdgh, _mm_shuffle_epi32(sum, 0x0e));
  if constexpr (Group < 12) {
    const __m128i seven_back = _mm_alignr_epi8(w[(Group + 3) % 4], w[(Group + 2) % 4], 4);
    const __m128i part = _mm_add_epi32(_mm_sha256msg1_epu32(w[Group % 4], w[(Group + 1) % 4]), seven_back);
    w[Group % 4] = _mm_sha256msg2_epu32(part, w[(Group + 3) % 4]);
  }
}

template <std::size_t... Group>
WITH_SHA_INLINE void all_rounds(std::index_sequence<Group...> /*groups*/, Lane& lane) {
  (four_rounds<Group>(lane), ...);
}

template <std::size_t... Group>
WITH_SHA_INLINE void all_rounds(std::index_sequence<Group...> /*groups*/, Lane& first, Lane& second) {
  ((four_rounds<Group>(first), four_rounds<Group>(second)), ...);
}

using Groups = std::make_index_sequence<16>;

WITH_SHA_INLINE void add(Lane& lane, __m128i abef, __m128i cdgh) {
  lane.abef = _mm_add_epi32(lane.abef, abef);
  lane.cdgh = _mm_add_epi32(lane.cdgh, cdgh);
}

WITH_SHA void hash_blocks(Lane& lane, const std::byte* bytes, std::size_t blocks) {
  for (; blocks > 0; --blocks, bytes += block_bytes) {
    const __m128i abef = lane.abef;
    const __m128i cdgh = lane.cdgh;
    load_words(lane, bytes);
    all_rounds(Groups(), lane);
    add(lane, abef, cdgh);
  }
}

WITH_SHA void hash_blocks(std::array<Lane, 2>& lanes, const std::byte* first, const std::byte* second,
                          std::size_t blocks) {
  Lane a = lanes[0];
  Lane b = lanes[1];
  for (; blocks > 0; --blocks, first += block_bytes, second += block_bytes) {
    const Lane before_a = a;
    const Lane before_b = b;
    load_words(a, first);
    load_words(b, second);
    all_rounds(Groups(), a, b);
    add(a, before_a.abef, before_a.cdgh);
    add(b, before_b.abef, before_b.cdgh);
  }
  lanes = {a, b};
}

/// The rest of the message, a one, zeros, and how many bits all of it has.
WITH_SHA void hash_end(Lane& lane, std::span<const std::byte> rest, std::uint64_t message_bytes) {
  std::array<std::byte, 2 * block_bytes> end{};
  std::ranges::copy(rest, end.begin());
  end[rest.size()] = std::byte{0x80};
  const std::size_t blocks = rest.size() + 1 + sizeof message_bytes <= block_bytes ? 1 : 2;
  const std::uint64_t bits = __builtin_bswap64(message_bytes * 8);
  std::memcpy(end.data() + blocks * block_bytes - sizeof bits, &bits, sizeof bits);
  hash_blocks(lane, end.data(), blocks);
}

WITH_SHA ChunkId to_id(const Lane& lane) {
  const State s = to_state(lane);
  const std::array<std::uint32_t, 8> words{s.abef[3], s.abef[2], s.cdgh[3], s.cdgh[2],
                                           s.abef[1], s.abef[0], s.cdgh[1], s.cdgh[0]};
  ChunkId id;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::uint32_t word = __builtin_bswap32(words[i]);
    std::memcpy(id.bytes.data() + 4 * i, &word, sizeof word);
  }
  return id;
}

}  // namespace

bool available() noexcept {
  static const bool found = [] {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    constexpr unsigned sha_bit = 1U << 29;
    return __builtin_cpu_supports("avx") != 0 && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & sha_bit) != 0;
  }();
  return found;
}

WITH_SHA State after(const State& state, std::span<const std::byte, block_bytes> block) noexcept {
  Lane lane = load_lane(state);
  hash_blocks(lane, block.data(), 1);
  return to_state(lane);
}

WITH_SHA std::array<ChunkId, 2> finish(const State& state, std::size_t before, std::span<const std::byte> first,
                                       std::span<const std::byte> second) noexcept {
  std::array<Lane, 2> lanes{load_lane(state), load_lane(state)};
  const std::array messages{first, second};
  const std::size_t both = std::min(first.size(), second.size()) / block_bytes;
  hash_blocks(lanes, first.data(), second.data(), both);
  std::array<ChunkId, 2> ids;
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    const std::span<const std::byte> alone = messages[i].subspan(both * block_bytes);
    const std::size_t blocks = alone.size() / block_bytes;
    hash_blocks(lanes[i], alone.data(), blocks);
    hash_end(lanes[i], alone.subspan(blocks * block_bytes), before + messages[i].size());
    ids[i] = to_id(lanes[i]);
  }
  return ids;
}

#else

bool available() noexcept {
  return false;
}

State after(const State& /*state*/, std::span<const std::byte, block_bytes> /*block*/) noexcept {
  std::terminate();
}

std::array<ChunkId, 2> finish(const State& /*state*/, std::size_t /*before*/, std::span<const std::byte> /*first*/,
                              std::span<const std::byte> /*second*/) noexcept {
  std::terminate();
}

#endif

}  // namespace stillpoint::sha256
