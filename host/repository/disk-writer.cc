// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/disk-writer.hh"

#include "host/repository/checksum.hh"

#include <array>
#include <bit>
#include <stdexcept>
#include <utility>

namespace stillpoint {

namespace {

/// A reader that is faster than the workers goes no further ahead of them: they do not become faster by it, and buffers
/// that are never used again cost pages, and caches what they held.
constexpr std::size_t most_waiting_per_worker = 8;

}  // namespace

class ChunkedDiskWriter::ChunkJob : public Job {
 public:
  explicit ChunkJob(ChunkedDiskWriter& writer) : writer_(writer) {}

  void run() noexcept override {
    try {
      // None is left when an earlier job took it too.
      std::vector<Chunk> chunks = writer_.take();
      if (!chunks.empty() && !writer_.abandoned_ && !writer_.chunks_->failed()) writer_.store(std::move(chunks));
    } catch (...) {
      writer_.chunks_->fail(std::current_exception());
      const std::scoped_lock lock(writer_.mutex_);
      writer_.taken_.notify_all();
    }
    writer_.pending_.end();
  }

 private:
  ChunkedDiskWriter& writer_;
};

std::vector<ChunkedDiskWriter::Chunk> ChunkedDiskWriter::take() {
  const std::scoped_lock lock(mutex_);
  std::vector<Chunk> taken;
  while (taken.size() < 2 && !waiting_.empty()) {
    taken.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  taken_.notify_all();
  return taken;
}

void ChunkedDiskWriter::store(std::vector<Chunk> chunks) {
  const auto settle = [this](Chunk& chunk, const ChunkId& id) {
    chunk.buffer = ChunkBuffer();
    if (chunk.blocks != 0)
      map_.settle_part(chunk.number, chunk.blocks, id);
    else
      map_.settle(chunk.number, id);
  };
  std::erase_if(chunks, [&](Chunk& chunk) {
    if (chunk.blocks != 0 || !is_zero(std::as_const(chunk.buffer).bytes())) return false;
    settle(chunk, {});
    return true;
  });
  if (chunks.size() == 2) {
    const std::array<ChunkId, 2> ids =
        chunks_->put(std::as_const(chunks[0].buffer).bytes(), std::as_const(chunks[1].buffer).bytes(), tally_);
    settle(chunks[0], ids[0]);
    settle(chunks[1], ids[1]);
  } else if (!chunks.empty()) {
    settle(chunks[0], chunks_->put(std::as_const(chunks[0].buffer).bytes(), RecordKind::data, tally_));
  }
}

ChunkedDiskWriter::ChunkedDiskWriter(std::shared_ptr<ChunkStore> chunks, std::uint64_t size,
                                     const std::optional<DiskMap>& base)
    : chunks_(std::move(chunks)), map_(*chunks_, size, base, tally_) {}

ChunkedDiskWriter::~ChunkedDiskWriter() {
  abandoned_ = true;
  pending_.wait();
}

ChunkBuffer ChunkedDiskWriter::acquire(std::uint64_t number) {
  chunks_->check();
  map_.expect(number);
  ChunkBuffer buffer = chunks_->disk_buffers().acquire(map_.shape().chunk_length(number));
  ++acquired_;
  return buffer;
}

void ChunkedDiskWriter::submit(std::uint64_t number, ChunkBuffer buffer) {
  queue({number, std::move(buffer)});
}

std::optional<ChunkSink::Part> ChunkedDiskWriter::acquire_part(std::uint64_t number, std::uint64_t blocks) {
  chunks_->check();
  blocks = map_.expect_part(number, blocks);
  if (blocks == 0) return std::nullopt;
  Part part{blocks,
            chunks_->disk_buffers().acquire(static_cast<std::size_t>(std::popcount(blocks)) * part_block_bytes)};
  ++acquired_;
  return part;
}

void ChunkedDiskWriter::submit_part(std::uint64_t number, Part part) {
  queue({number, std::move(part.buffer), part.blocks});
}

void ChunkedDiskWriter::queue(Chunk chunk) {
  chunks_->check();
  chunks_->disk_buffers().hand_over(chunk.buffer);
  ++submitted_;
  pending_.begin();
  {
    std::unique_lock lock(mutex_);
    // Each that waits has a job, which takes it, or the store fails.
    taken_.wait(lock, [this] {
      return chunks_->failed() || waiting_.size() < most_waiting_per_worker * chunks_->crew().size();
    });
    waiting_.push_back(std::move(chunk));
  }
  chunks_->crew().post(std::make_unique<ChunkJob>(*this));
}

void ChunkedDiskWriter::submit_zero(std::uint64_t first, std::uint64_t count) {
  chunks_->check();
  map_.zeros(first, count);
}

DiskMap ChunkedDiskWriter::finish() {
  pending_.wait();
  chunks_->check();
  if (acquired_ != submitted_) throw std::logic_error("a chunk was acquired and not submitted");
  return map_.finish();
}

}  // namespace stillpoint
