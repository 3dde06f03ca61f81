// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/dump-reader.hh"

#include "common/errors.hh"
#include "host/repository/map-node.hh"
#include "host/repository/patch.hh"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace stillpoint {

namespace {

class StreamReader {
 public:
  StreamReader(ChunkStore& chunks, const std::function<void(std::span<const std::byte>)>& consumer)
      : chunks_(chunks), consumer_(consumer), buffers_(chunks.crew().size() * 4) {}

  void read_node(const StreamEntry& node, unsigned level) {
    const std::vector<std::byte> bytes = chunks_.get(node.id, max_stream_node_bytes);
    if (level == 1) return read_pieces(decode_stream_leaf(bytes, node.length, node.id));
    for (const StreamEntry& entry : decode_stream_node(bytes, level, node.length, node.id))
      read_node(entry, level - 1);
  }

 private:
  void read_pieces(std::span<const StreamPiece> pieces) {
    while (!pieces.empty()) {
      const std::size_t count = std::min(pieces.size(), buffers_.size());
      chunks_.crew().for_each(count, [&](std::size_t i) {
        buffers_[i].resize(pieces[i].length);
        read_piece(pieces[i], buffers_[i]);
      });
      for (std::size_t i = 0; i < count; ++i)
        consumer_(buffers_[i]);
      pieces = pieces.subspan(count);
    }
  }

  void read_piece(const StreamPiece& piece, std::span<std::byte> bytes) {
    if (is_zero_chunk(piece.id))
      std::memset(bytes.data(), 0, bytes.size());
    else if (!piece.patched())
      chunks_.get(piece.id, bytes);
    else if (!read_patched_piece(chunks_, piece, bytes))
      throw Corruption(fmt::format("patch {} does not make {}", to_hex(piece.patch), to_hex(piece.id)),
                       "restore another still point; verify shows what else is affected");
  }

  ChunkStore& chunks_;
  const std::function<void(std::span<const std::byte>)>& consumer_;
  std::vector<std::vector<std::byte>> buffers_;
};

}  // namespace

bool read_patched_piece(ChunkStore& chunks, const StreamPiece& piece, std::span<std::byte> bytes) {
  std::vector<std::byte> base;
  for (const ChunkId& id : piece.bases) {
    const std::vector<std::byte> part = chunks.get(id, max_dump_chunk_bytes);
    base.insert(base.end(), part.begin(), part.end());
  }
  thread_local PatchReader reader;
  return reader.apply(base, chunks.get(piece.patch, max_dump_chunk_bytes), bytes) && chunks.name(bytes) == piece.id;
}

void read_stream(ChunkStore& chunks, const StreamMap& map,
                 const std::function<void(std::span<const std::byte>)>& consumer) {
  if (map.size == 0) {
    if (!is_zero_chunk(map.root)) throw Corruption("a stream map of no bytes has a root");
    return;
  }
  const unsigned level = stream_node_level(chunks.get(map.root, max_stream_node_bytes), map.root);
  StreamReader(chunks, consumer).read_node({map.root, map.size}, level);
}

}  // namespace stillpoint
