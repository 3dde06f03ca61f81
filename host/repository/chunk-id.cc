// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/chunk-id.hh"

#include "common/errors.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

std::string bytes_to_hex(std::span<const std::byte> bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const std::byte byte : bytes) {
    text += digits[std::to_integer<unsigned>(byte >> 4)];
    text += digits[std::to_integer<unsigned>(byte & std::byte{15})];
  }
  return text;
}

bool hex_to_bytes(std::string_view text, std::span<std::byte> bytes) {
  if (text.size() != bytes.size() * 2) return false;
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const int high = digit(text[2 * i]);
    const int low = digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    bytes[i] = static_cast<std::byte>(high * 16 + low);
  }
  return true;
}

std::string to_hex(const ChunkId& id) {
  return bytes_to_hex(id.bytes);
}

ChunkId parse_chunk_id(std::string_view text) {
  ChunkId id;
  if (!hex_to_bytes(text, id.bytes)) throw Corruption(fmt::format("'{}' is not a chunk's id", text.substr(0, 80)));
  return id;
}

bool is_zero_chunk(const ChunkId& id) noexcept {
  return std::all_of(id.bytes.begin(), id.bytes.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace stillpoint
