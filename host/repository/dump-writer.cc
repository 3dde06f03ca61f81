// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/dump-writer.hh"

#include "common/log.hh"
#include "host/repository/checksum.hh"
#include "host/repository/patch.hh"

#include <algorithm>
#include <cstring>
#include <utility>

namespace stillpoint {

namespace {

/// A patch is made where it takes this part, or less, of what the piece itself would.
constexpr std::uint32_t worth_a_patch = 4;
/// What a patch takes besides its own bytes: its record, its places in footer and index, its names in the map.
constexpr std::uint32_t patch_costs = 256;

}  // namespace

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
        writer_.settle(number_, writer_.store(bytes));
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

ChunkedDumpWriter::ChunkedDumpWriter(std::shared_ptr<ChunkStore> chunks, const std::optional<StreamMap>& base)
    : chunks_(std::move(chunks)) {
  if (base) base_.emplace(*chunks_, *base);
}

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

StreamPiece ChunkedDumpWriter::store(std::span<const std::byte> bytes) {
  StreamPiece piece;
  piece.length = bytes.size();
  if (is_zero(bytes)) return piece;
  piece.id = chunks_->name(bytes);
  piece.sketch = sketch_of(bytes);
  if (base_) {
    if (chunks_->index().holds(piece.id))
      base_->pass(piece.id);
    else if (const std::optional<DumpBase::Found> earlier = base_->find(piece.id, piece.sketch))
      if (build_on(*earlier, bytes, piece)) return piece;
  }
  chunks_->put(piece.id, bytes, RecordKind::data, tally_);
  return piece;
}

/// Makes it earlier pieces and a patch. False where that cannot be, or is not worth it.
bool ChunkedDumpWriter::build_on(const DumpBase::Found& earlier, std::span<const std::byte> bytes, StreamPiece& piece) {
  const auto lasts = [this](const ChunkId& id) { return chunks_->index().lasting_copy(id).has_value(); };
  const StreamPiece& same = earlier.piece;
  if (same.id == piece.id && same.patched() && lasts(same.patch) && std::ranges::all_of(same.bases, lasts)) {
    piece = same;
    ++tally_.chunks;
    return true;
  }
  std::vector<ChunkId> bases;
  add_bases(earlier.piece, bases);
  if (!earlier.guessed && patch(bases, bytes, piece)) return true;
  // Where a change has moved a cut, the piece is made of parts of two or three.
  if (!earlier.guessed && earlier.piece.length == bytes.size()) return false;
  for (const StreamPiece& beside : earlier.around)
    add_bases(beside, bases);
  return patch(bases, bytes, piece);
}

/// The chunks that an earlier piece is made of. A patched one is no base itself: to read a piece takes one patch.
void ChunkedDumpWriter::add_bases(const StreamPiece& piece, std::vector<ChunkId>& bases) {
  for (const ChunkId& id : piece.patched() ? std::span<const ChunkId>(piece.bases) : std::span(&piece.id, 1))
    if (!is_zero_chunk(id) && bases.size() < max_patch_bases && std::ranges::find(bases, id) == bases.end())
      bases.push_back(id);
}

bool ChunkedDumpWriter::patch(std::span<const ChunkId> bases, std::span<const std::byte> bytes, StreamPiece& piece) {
  std::vector<std::byte> base;
  std::uint64_t stored = 0;
  for (const ChunkId& id : bases) {
    const std::optional<Index::Location> copy = chunks_->index().lasting_copy(id);
    const DumpBase::Content content = copy ? base_->content(id) : nullptr;
    if (!content) return false;
    base.insert(base.end(), content->begin(), content->end());
    stored += std::min<std::uint64_t>(copy->stored, content->size());
  }
  if (base.empty()) return false;
  // As far as what is much alike compresses alike.
  const std::uint64_t limit = stored * bytes.size() / base.size() / worth_a_patch;
  if (limit <= patch_costs) return false;
  thread_local PatchMaker maker;
  const std::vector<std::byte> made = maker.make(base, bytes, limit - patch_costs);
  if (made.empty()) return false;
  // What it makes is known by its own id alone: once, here, it is looked at.
  thread_local PatchReader reader;
  std::vector<std::byte> again(bytes.size());
  if (!reader.apply(base, made, again) || !std::ranges::equal(again, bytes)) {
    log_warning("a patch does not make what it was made for: is this machine's memory damaged?");
    return false;
  }
  piece.bases.assign(bases.begin(), bases.end());
  piece.patch = chunks_->put(made, RecordKind::data, tally_);
  return true;
}

void ChunkedDumpWriter::settle(std::uint64_t number, const StreamPiece& piece) {
  std::unique_lock lock(mutex_);
  const auto it = open_.try_emplace(number / map_fanout).first;
  it->second.pieces[number % map_fanout] = piece;
  if (++it->second.settled < map_fanout) return;
  const OpenLeaf whole = std::move(it->second);
  open_.erase(it);
  lock.unlock();
  const StreamEntry node = put_leaf(whole.pieces);
  lock.lock();
  done_[number / map_fanout] = node;
}

StreamEntry ChunkedDumpWriter::put_leaf(std::span<const StreamPiece> pieces) {
  StreamEntry node;
  for (const StreamPiece& piece : pieces)
    node.length += piece.length;
  node.id = chunks_->put(encode_stream_leaf(pieces), RecordKind::node, tally_);
  return node;
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
    nodes.push_back(put_leaf(std::span(leaf.pieces).first(leaf.settled)));
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
