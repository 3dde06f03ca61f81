// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-store.hh"
#include "host/repository/dump-base.hh"
#include "host/repository/gear.hh"
#include "host/repository/map-node.hh"
#include "host/repository/pending-jobs.hh"
#include "host/repository/repository.hh"

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

namespace stillpoint {

/// DumpWriter over a chunk store: the caller's thread cuts, the crew stores.
class ChunkedDumpWriter : public DumpWriter {
 public:
  ChunkedDumpWriter(std::shared_ptr<ChunkStore> chunks, const std::optional<StreamMap>& base);
  ChunkedDumpWriter(const ChunkedDumpWriter&) = delete;
  ChunkedDumpWriter& operator=(const ChunkedDumpWriter&) = delete;
  ~ChunkedDumpWriter() override;

  void write(std::span<const std::byte> bytes) override;
  [[nodiscard]] StreamMap finish() override;
  [[nodiscard]] StoredCounts counts() const override { return tally_.counts(); }

 private:
  class ChunkJob;
  struct OpenLeaf {
    std::vector<StreamPiece> pieces = std::vector<StreamPiece>(map_fanout);
    std::uint64_t settled = 0;
  };

  void submit_chunk();
  [[nodiscard]] StreamPiece store(std::span<const std::byte> bytes);
  [[nodiscard]] bool build_on(const DumpBase::Found& earlier, std::span<const std::byte> bytes, StreamPiece& piece);
  static void add_bases(const StreamPiece& piece, std::vector<ChunkId>& bases);
  [[nodiscard]] bool patch(std::span<const ChunkId> bases, std::span<const std::byte> bytes, StreamPiece& piece);
  void settle(std::uint64_t number, const StreamPiece& piece);
  StreamEntry put_leaf(std::span<const StreamPiece> pieces);
  StreamEntry put_node(unsigned level, std::span<const StreamEntry> entries);

  std::shared_ptr<ChunkStore> chunks_;
  std::optional<DumpBase> base_;
  StoredTally tally_;
  GearChunker chunker_;
  ChunkBuffer buffer_;      ///< the chunk that is being filled
  std::size_t filled_ = 0;  ///< bytes of it
  std::uint64_t next_ = 0;  ///< number of the next chunk
  std::uint64_t size_ = 0;
  PendingJobs pending_;
  std::atomic<bool> abandoned_{false};

  std::mutex mutex_;
  std::map<std::uint64_t, OpenLeaf> open_;
  std::map<std::uint64_t, StreamEntry> done_;  ///< level 1 nodes
};

}  // namespace stillpoint
