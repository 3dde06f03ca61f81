// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/disk-writer.hh"

#include "host/repository/checksum.hh"

#include <stdexcept>
#include <utility>

namespace stillpoint {

class ChunkedDiskWriter::ChunkJob : public Job {
 public:
  ChunkJob(ChunkedDiskWriter& writer, std::uint64_t number, ChunkBuffer buffer)
      : writer_(writer), number_(number), buffer_(std::move(buffer)) {}

  void run() noexcept override {
    ChunkStore& chunks = *writer_.chunks_;
    try {
      if (!writer_.abandoned_ && !chunks.failed()) {
        const std::span<const std::byte> bytes = std::as_const(buffer_).bytes();
        const ChunkId id = is_zero(bytes) ? ChunkId{} : chunks.put(bytes, RecordKind::data, writer_.tally_);
        buffer_ = ChunkBuffer();
        writer_.map_.settle(number_, id);
      }
    } catch (...) {
      chunks.fail(std::current_exception());
    }
    buffer_ = ChunkBuffer();
    writer_.pending_.end();
  }

 private:
  ChunkedDiskWriter& writer_;
  std::uint64_t number_;
  ChunkBuffer buffer_;
};

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
  chunks_->check();
  chunks_->disk_buffers().hand_over(buffer);
  ++submitted_;
  pending_.begin();
  chunks_->crew().post(std::make_unique<ChunkJob>(*this, number, std::move(buffer)));
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
