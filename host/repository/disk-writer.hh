// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-store.hh"
#include "host/repository/map-builder.hh"
#include "host/repository/pending-jobs.hh"
#include "host/repository/repository.hh"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace stillpoint {

/// DiskWriter over a chunk store. Each chunk posts a job to the crew, which takes two chunks when two are waiting:
/// hashing them together is faster.
class ChunkedDiskWriter : public DiskWriter {
 public:
  ChunkedDiskWriter(std::shared_ptr<ChunkStore> chunks, std::uint64_t size, const std::optional<DiskMap>& base);
  ChunkedDiskWriter(const ChunkedDiskWriter&) = delete;
  ChunkedDiskWriter& operator=(const ChunkedDiskWriter&) = delete;
  ~ChunkedDiskWriter() override;

  [[nodiscard]] std::uint32_t chunk_size() const override { return chunks_->chunk_bytes(); }
  [[nodiscard]] ChunkBuffer acquire(std::uint64_t number) override;
  void submit(std::uint64_t number, ChunkBuffer buffer) override;
  [[nodiscard]] std::optional<Part> acquire_part(std::uint64_t number, std::uint64_t blocks) override;
  void submit_part(std::uint64_t number, Part part) override;
  void submit_zero(std::uint64_t first, std::uint64_t count) override;
  [[nodiscard]] DiskMap finish() override;
  [[nodiscard]] StoredCounts counts() const override { return tally_.counts(); }

 private:
  class ChunkJob;
  struct Chunk {
    std::uint64_t number;
    ChunkBuffer buffer;
    std::uint64_t blocks = 0;  ///< of a part; 0: the whole chunk
  };

  void queue(Chunk chunk);
  [[nodiscard]] std::vector<Chunk> take();
  void store(std::vector<Chunk> chunks);

  std::shared_ptr<ChunkStore> chunks_;
  StoredTally tally_;
  MapBuilder map_;
  PendingJobs pending_;
  std::mutex mutex_;
  std::deque<Chunk> waiting_;
  std::condition_variable taken_;
  std::uint64_t acquired_ = 0;
  std::uint64_t submitted_ = 0;
  std::atomic<bool> abandoned_{false};  ///< what is queued is dropped
};

}  // namespace stillpoint
