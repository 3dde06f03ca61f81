// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/dump-reader.hh"

#include "common/errors.hh"
#include "host/repository/map-node.hh"

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
    const std::vector<StreamEntry> entries = decode_stream_node(bytes, level, node.length, node.id);
    if (level == 1) return read_chunks(entries, node.id);
    for (const StreamEntry& entry : entries)
      read_node(entry, level - 1);
  }

 private:
  void read_chunks(std::span<const StreamEntry> entries, const ChunkId& node) {
    for (const StreamEntry& entry : entries)
      if (entry.length > max_chunk_bytes)
        throw Corruption(fmt::format("map node {}: a chunk of {} bytes", to_hex(node), entry.length));
    while (!entries.empty()) {
      const std::size_t count = std::min(entries.size(), buffers_.size());
      chunks_.crew().for_each(count, [&](std::size_t i) {
        buffers_[i].resize(entries[i].length);
        if (is_zero_chunk(entries[i].id))
          std::memset(buffers_[i].data(), 0, buffers_[i].size());
        else
          chunks_.get(entries[i].id, buffers_[i]);
      });
      for (std::size_t i = 0; i < count; ++i)
        consumer_(buffers_[i]);
      entries = entries.subspan(count);
    }
  }

  ChunkStore& chunks_;
  const std::function<void(std::span<const std::byte>)>& consumer_;
  std::vector<std::vector<std::byte>> buffers_;
};

}  // namespace

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
