// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/dump-reader.hh"

#include "common/errors.hh"
#include "host/repository/map-node.hh"
#include "host/repository/patch.hh"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace stillpoint {

namespace {

constexpr std::size_t kept_stream_nodes = 16;

void read_piece(ChunkStore& chunks, const StreamPiece& piece, std::span<std::byte> bytes) {
  if (is_zero_chunk(piece.id))
    std::memset(bytes.data(), 0, bytes.size());
  else if (!piece.patched())
    chunks.get(piece.id, bytes);
  else if (!read_patched_piece(chunks, piece, bytes))
    throw Corruption(fmt::format("patch {} does not make {}", to_hex(piece.patch), to_hex(piece.id)),
                     "restore another still point; verify shows what else is affected");
}

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
        read_piece(chunks_, pieces[i], buffers_[i]);
      });
      for (std::size_t i = 0; i < count; ++i)
        consumer_(buffers_[i]);
      pieces = pieces.subspan(count);
    }
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

MappedStreamReader::MappedStreamReader(std::shared_ptr<ChunkStore> chunks, const StreamMap& map)
    : chunks_(std::move(chunks)), root_{map.root, map.size} {
  if (map.size == 0) {
    if (!is_zero_chunk(map.root)) throw Corruption("a stream map of no bytes has a root");
    return;
  }
  height_ = stream_node_level(chunks_->get(map.root, max_stream_node_bytes), map.root);
}

MappedStreamReader::Node MappedStreamReader::node(const StreamEntry& entry, unsigned level) {
  {
    const std::scoped_lock lock(mutex_);
    const auto found = std::ranges::find_if(kept_, [&](const Kept& kept) {
      return kept.level == level && kept.entry.length == entry.length && kept.entry.id == entry.id;
    });
    if (found != kept_.end()) {
      kept_.splice(kept_.begin(), kept_, found);
      return kept_.front().node;
    }
  }
  const std::vector<std::byte> bytes = chunks_->get(entry.id, max_stream_node_bytes);
  auto children = std::make_shared<Children>();
  if (level > 1)
    children->nodes = decode_stream_node(bytes, level, entry.length, entry.id);
  else
    children->pieces = decode_stream_leaf(bytes, entry.length, entry.id);
  const std::scoped_lock lock(mutex_);
  kept_.push_front({entry, level, children});
  if (kept_.size() > kept_stream_nodes) kept_.pop_back();
  return children;
}

void MappedStreamReader::pread(std::span<std::byte> buffer, std::uint64_t offset) {
  if (offset > size() || buffer.size() > size() - offset)
    throw std::out_of_range("a range behind the end of the stream");
  if (!buffer.empty()) read_node(root_, height_, buffer, offset);
}

/// `offset`: from the start of what lies below the entry.
void MappedStreamReader::read_node(const StreamEntry& entry, unsigned level, std::span<std::byte> buffer,
                                   std::uint64_t offset) {
  const Node children = node(entry, level);
  const auto read_from = [&](const auto& child, const auto& read) {
    if (offset >= child.length) {
      offset -= child.length;
      return;
    }
    const std::span<std::byte> part = buffer.first(std::min<std::uint64_t>(buffer.size(), child.length - offset));
    if (!part.empty()) read(part);
    buffer = buffer.subspan(part.size());
    offset = 0;
  };
  for (const StreamEntry& child : children->nodes)
    read_from(child, [&](std::span<std::byte> part) { read_node(child, level - 1, part, offset); });
  for (const StreamPiece& piece : children->pieces)
    read_from(piece, [&](std::span<std::byte> part) { read_part(piece, part, offset); });
}

void MappedStreamReader::read_part(const StreamPiece& piece, std::span<std::byte> buffer, std::uint64_t offset) {
  if (buffer.size() == piece.length) return read_piece(*chunks_, piece, buffer);
  std::vector<std::byte> whole(piece.length);
  read_piece(*chunks_, piece, whole);
  std::memcpy(buffer.data(), whole.data() + offset, buffer.size());
}

}  // namespace stillpoint
