// SPDX-License-Identifier: LGPL-2.1-or-later
// A node of a disk map or of a stream map. The first byte says which, and of which level.
#include "common/errors.hh"
#include "host/repository/map-node.hh"

#include <algorithm>
#include <cstdint>
#include <cstdlib>

using namespace stillpoint;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const unsigned level = data[0] & 7U;
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  const ChunkId id{};
  try {
    if ((data[0] & 8U) == 0) {
      const DiskNode node = decode_disk_node(bytes, level, 1 + data[0], 256 << 10, id);
      if (node.ids.size() != map_fanout) std::abort();
      const std::vector<std::byte> again = encode_disk_node(level, node);
      if (!std::equal(again.begin(), again.end(), bytes.begin(), bytes.end())) std::abort();
    } else if (const std::uint64_t wanted = std::uint64_t{data[0]} << 12U; stream_node_level(bytes, id) > 1) {
      std::uint64_t length = 0;
      for (const StreamEntry& entry : decode_stream_node(bytes, stream_node_level(bytes, id), wanted, id))
        length += entry.length;
      if (length != wanted) std::abort();
    } else {
      std::uint64_t length = 0;
      const std::vector<StreamPiece> pieces = decode_stream_leaf(bytes, wanted, id);
      for (const StreamPiece& piece : pieces)
        length += piece.length;
      if (length != wanted) std::abort();
      const std::vector<std::byte> again = encode_stream_leaf(pieces);
      if (!std::equal(again.begin(), again.end(), bytes.begin(), bytes.end())) std::abort();
    }
  } catch (const Corruption&) {
  }
  return 0;
}
