// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/disk-pieces.hh"

#include <cstring>

namespace stillpoint {

bool is_all_zero(std::span<const std::byte> bytes) {
  return bytes.empty() ||
         (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

std::vector<DiskTarget::Piece> joined(std::span<const DiskTarget::Piece> pieces) {
  std::vector<DiskTarget::Piece> result;
  for (const DiskTarget::Piece& piece : pieces) {
    if (!result.empty()) {
      DiskTarget::Piece& last = result.back();
      if (last.offset + last.bytes.size() == piece.offset &&
          last.bytes.data() + last.bytes.size() == piece.bytes.data()) {
        last.bytes = {last.bytes.data(), last.bytes.size() + piece.bytes.size()};
        continue;
      }
    }
    result.push_back(piece);
  }
  return result;
}

}  // namespace stillpoint
