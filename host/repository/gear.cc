// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/gear.hh"

#include <algorithm>
#include <array>

namespace stillpoint {

namespace {

/// 256 fixed pseudo-random numbers. They decide where cuts fall: other ones would make all dumps new once.
constexpr std::array<std::uint64_t, 256> make_gear() {
  std::array<std::uint64_t, 256> gear{};
  std::uint64_t state = 0x5354494c4c50544eULL;
  for (std::uint64_t& value : gear) {  // SplitMix64
    state += 0x9e3779b97f4a7c15ULL;
    std::uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    value = z ^ (z >> 31);
  }
  return gear;
}

constexpr std::array<std::uint64_t, 256> gear = make_gear();

/// The highest bits depend on the last 64 bytes. Below the average a cut is four times rarer, above it four times more
/// likely: lengths stay near the average.
constexpr std::uint64_t high_bits(unsigned count) {
  return ~std::uint64_t{0} << (64 - count);
}
constexpr unsigned average_bits = 16;
static_assert(GearChunker::average_bytes == std::size_t{1} << average_bits);
constexpr std::uint64_t rare = high_bits(average_bits + 2);
constexpr std::uint64_t likely = high_bits(average_bits - 2);
/// The hash looks back over so many bytes: it starts that much before a cut may fall.
constexpr std::size_t window = 64;

}  // namespace

GearChunker::Result GearChunker::feed(std::span<const std::byte> bytes) noexcept {
  std::size_t at = 0;
  if (length_ < min_bytes - window) {
    at = std::min(bytes.size(), min_bytes - window - length_);
    length_ += at;
  }
  while (at < bytes.size()) {
    const std::size_t limit = length_ < min_bytes ? min_bytes : length_ < average_bytes ? average_bytes : max_bytes;
    const std::uint64_t mask = length_ < min_bytes ? ~std::uint64_t{0} : length_ < average_bytes ? rare : likely;
    const std::size_t end = at + std::min(bytes.size() - at, limit - length_);
    std::uint64_t hash = hash_;
    const std::size_t begin = at;
    bool cut = false;
    while (at < end && !cut) {
      hash = (hash << 1) + gear[std::to_integer<std::size_t>(bytes[at++])];
      cut = (hash & mask) == 0;
    }
    hash_ = hash;
    length_ += at - begin;
    if (cut || length_ == max_bytes) {
      length_ = 0;
      hash_ = 0;
      return {at, true};
    }
  }
  return {at, false};
}

std::uint64_t sketch_of(std::span<const std::byte> bytes) noexcept {
  if (bytes.size() < window) return 0;
  std::uint64_t hash = 0;
  for (const std::byte byte : bytes.first(window - 1))
    hash = (hash << 1) + gear[std::to_integer<std::size_t>(byte)];
  std::uint64_t highest = 0;
  for (const std::byte byte : bytes.subspan(window - 1)) {
    hash = (hash << 1) + gear[std::to_integer<std::size_t>(byte)];
    highest = std::max(highest, hash);
  }
  return highest;
}

}  // namespace stillpoint
