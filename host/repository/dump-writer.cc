// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/dump-writer.hh"

#include "host/repository/checksum.hh"

#include <algorithm>
#include <cstring>
#include <utility>

namespace stillpoint {

static_assert(GearChunker::max_bytes == max_dump_chunk_bytes);

class ChunkedDumpWriter::ChunkJob : public Job {
 public:
  ChunkJob(ChunkedDumpWriter& writer, std::uint64_t number, ChunkBuffer buffer, std::size_t length)
      : writer_(writer), number_(number), buffer_(std::move(buffer)), length_(length) {}

  void run() noexcept override {
    ChunkStore& chunks = *writer_.chunks_;
    try {
      if (!writer_.abandoned_ && !chunks.failed()) {
        const std::span<const std::byte> bytes = std::as_const(buffer_).bytes().first(length_);
        const ChunkId id = is_zero(bytes) ? ChunkId{} : chunks.put(bytes, RecordKind::data, writer_.tally_);
        writer_.settle(number_, {id, length_});
      }
    } catch (...) {
      chunks.fail(std::current_exception());
    }
    buffer_ = ChunkBuffer();
    writer_.pending_.end();
  }

 private:
  ChunkedDumpWriter& writer_;
  std::uint64_t number_;
  ChunkBuffer buffer_;
  std::size_t length_;
};

ChunkedDumpWriter::~ChunkedDumpWriter() {
  abandoned_ = true;
  pending_.wait();
}

void ChunkedDumpWriter::write(std::span<const std::byte> bytes) {
  chunks_->check();
  while (!bytes.empty()) {
    if (!buffer_) buffer_ = chunks_->dump_buffers().acquire(max_dump_chunk_bytes);
    const GearChunker::Result result = chunker_.feed(bytes);
    std::memcpy(buffer_.bytes().data() + filled_, bytes.data(), result.taken);
    filled_ += result.taken;
    size_ += result.taken;
    bytes = bytes.subspan(result.taken);
    if (result.cut) submit_chunk();
  }
}

void ChunkedDumpWriter::submit_chunk() {
  chunks_->dump_buffers().hand_over(buffer_);
  pending_.begin();
  chunks_->crew().post(
      std::make_unique<ChunkJob>(*this, next_++, std::exchange(buffer_, ChunkBuffer()), std::exchange(filled_, 0)));
}

void ChunkedDumpWriter::settle(std::uint64_t number, const StreamEntry& entry) {
  std::unique_lock lock(mutex_);
  const auto it = open_.try_emplace(number / map_fanout).first;
  it->second.entries[number % map_fanout] = entry;
  if (++it->second.settled < map_fanout) return;
  const OpenLeaf whole = std::move(it->second);
  open_.erase(it);
  lock.unlock();
  const StreamEntry node = put_node(1, whole.entries);
  lock.lock();
  done_[number / map_fanout] = node;
}

StreamEntry ChunkedDumpWriter::put_node(unsigned level, std::span<const StreamEntry> entries) {
  StreamEntry node;
  for (const StreamEntry& entry : entries)
    node.length += entry.length;
  node.id = chunks_->put(encode_stream_node(level, entries), RecordKind::node, tally_);
  return node;
}

StreamMap ChunkedDumpWriter::finish() {
  if (filled_ > 0) submit_chunk();
  pending_.wait();
  chunks_->check();
  if (size_ == 0) return {};
  std::vector<StreamEntry> nodes;
  for (const auto& [number, node] : done_)
    nodes.push_back(node);
  // At most the last one is not full.
  for (const auto& [number, leaf] : open_)
    nodes.push_back(put_node(1, std::span(leaf.entries).first(leaf.settled)));
  for (unsigned level = 2; nodes.size() > 1; ++level) {
    std::vector<StreamEntry> parents;
    for (std::size_t at = 0; at < nodes.size(); at += map_fanout)
      parents.push_back(
          put_node(level, std::span(nodes).subspan(at, std::min<std::size_t>(map_fanout, nodes.size() - at))));
    nodes = std::move(parents);
  }
  return {nodes.front().id, size_};
}

}  // namespace stillpoint
