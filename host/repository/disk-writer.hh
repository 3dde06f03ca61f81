// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-store.hh"
#include "host/repository/map-builder.hh"
#include "host/repository/pending-jobs.hh"
#include "host/repository/repository.hh"

#include <atomic>
#include <memory>
#include <optional>

namespace stillpoint {

/// DiskWriter over a chunk store: each chunk is one job of the crew.
class ChunkedDiskWriter : public DiskWriter {
 public:
  ChunkedDiskWriter(std::shared_ptr<ChunkStore> chunks, std::uint64_t size, const std::optional<DiskMap>& base);
  ChunkedDiskWriter(const ChunkedDiskWriter&) = delete;
  ChunkedDiskWriter& operator=(const ChunkedDiskWriter&) = delete;
  ~ChunkedDiskWriter() override;

  [[nodiscard]] std::uint32_t chunk_size() const override { return chunks_->chunk_bytes(); }
  [[nodiscard]] ChunkBuffer acquire(std::uint64_t number) override;
  void submit(std::uint64_t number, ChunkBuffer buffer) override;
  void submit_zero(std::uint64_t first, std::uint64_t count) override;
  [[nodiscard]] DiskMap finish() override;
  [[nodiscard]] StoredCounts counts() const override { return tally_.counts(); }

 private:
  class ChunkJob;

  std::shared_ptr<ChunkStore> chunks_;
  StoredTally tally_;
  MapBuilder map_;
  PendingJobs pending_;
  std::uint64_t acquired_ = 0;
  std::uint64_t submitted_ = 0;
  std::atomic<bool> abandoned_{false};  ///< what is queued is dropped
};

}  // namespace stillpoint
