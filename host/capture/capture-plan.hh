// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/queued-reader.hh"

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

namespace stillpoint {

/// What is to be done for chunks [first, first + count): zeros, or reads.
struct ChunkRun {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  bool zero = false;
  std::vector<Extent> pieces;  ///< what to read of a single chunk that is partly hole; empty: all of every chunk
  std::uint64_t dirty = 0;     ///< blocks of a single chunk that are (ChunkSink::Part); 0: all of every chunk
};

/// Turns a disk's extents into runs of chunks, in ascending order and piece by piece, so that neither the memory nor
/// the time to the first read grows with the disk.
class CapturePlan {
 public:
  /// `incremental`: only chunks that the dirty bitmap touches.
  CapturePlan(QueuedReader& disk, std::uint32_t chunk_size, bool incremental);

  /// The next run, none at the disk's end.
  [[nodiscard]] std::optional<ChunkRun> next();

  /// Looks ahead for at most `patience` and a bounded number of runs, so that total() is near what it will be.
  void look_ahead(std::chrono::milliseconds patience);

  [[nodiscard]] std::uint64_t total() const noexcept { return total_; }  ///< bytes to read in the runs known
  /// Bytes dirty (incremental) or allocated (full) in what was planned.
  [[nodiscard]] std::uint64_t changed() const noexcept { return (incremental_ ? dirty_ : allocated_).data(); }

 private:
  /// Extents asked for in windows, walked in ascending order.
  class Cursor {
   public:
    using Ask = std::function<std::vector<Extent>(std::uint64_t, std::uint64_t)>;
    Cursor(Ask ask, std::uint64_t size) : ask_(std::move(ask)), size_(size) {}
    /// The extent that holds `offset`, from `offset` on; offsets ascend.
    [[nodiscard]] Extent at(std::uint64_t offset);
    [[nodiscard]] std::uint64_t data() const noexcept { return data_; }  ///< bytes of data in the windows seen

   private:
    Ask ask_;
    std::uint64_t size_;
    std::vector<Extent> window_;
    std::size_t index_ = 0;
    std::uint64_t data_ = 0;
  };

  [[nodiscard]] std::optional<ChunkRun> make();
  struct Dirty {
    std::uint64_t end = 0;     ///< every chunk up to here is dirty
    std::uint64_t blocks = 0;  ///< of a single chunk; 0: all of every chunk
  };
  [[nodiscard]] Dirty skip_clean();
  [[nodiscard]] std::uint64_t whole_chunks(std::uint64_t end) const noexcept;

  std::uint64_t size_;
  std::uint64_t chunk_size_;
  std::uint64_t position_ = 0;  ///< begin of the next chunk to plan
  bool incremental_;
  Cursor allocated_;
  Cursor dirty_;
  std::uint64_t total_ = 0;
  std::deque<ChunkRun> ahead_;
};

}  // namespace stillpoint
