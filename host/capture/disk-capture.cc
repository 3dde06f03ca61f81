// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/disk-capture.hh"

#include "common/errors.hh"
#include "host/capture/capture-plan.hh"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <vector>

namespace stillpoint {
namespace {

constexpr std::chrono::milliseconds stop_check{200};
constexpr std::chrono::milliseconds look_ahead_limit{500};

class Reading {
 public:
  Reading(QueuedReader& disk, ChunkSink& sink, CaptureProgress& progress, const std::stop_token& stop)
      : disk_(disk),
        sink_(sink),
        progress_(progress),
        stop_(stop),
        slots_(std::max<std::size_t>(std::min(sink.buffers_per_reader(), disk.chunks_in_flight()), 1)) {
    for (std::size_t i = 0; i < slots_.size(); ++i)
      free_.push_back(i);
  }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;
  ~Reading() {
    // The buffers go back to the sink: nobody may write to them any more.
    if (disk_.reads_in_flight() > 0) disk_.abandon();
  }

  std::uint64_t run(CapturePlan& plan);

 private:
  struct Slot {
    std::uint64_t number = 0;
    std::uint64_t blocks = 0;  ///< of a part; 0: a whole chunk
    ChunkBuffer buffer;
    std::size_t pending = 0;
  };

  void start(std::uint64_t number, const ChunkRun& run);
  std::size_t free_slot();
  bool start_part(std::uint64_t number, const ChunkRun& run, std::size_t tag);
  void start_pieces(std::uint64_t number, std::span<const Extent> pieces, std::size_t tag);
  bool complete_one(std::chrono::milliseconds patience);
  void check_stop() const {
    if (stop_.stop_requested()) throw Interrupted("stopped while reading a disk");
  }

  QueuedReader& disk_;
  ChunkSink& sink_;
  CaptureProgress& progress_;
  const std::stop_token& stop_;
  std::vector<Slot> slots_;
  std::vector<std::size_t> free_;
  std::uint64_t done_ = 0;
  std::uint64_t corrected_ = 0;  ///< what parts make of the planned bytes, modulo 2^64
  std::uint64_t total_ = 0;
};

bool Reading::complete_one(std::chrono::milliseconds patience) {
  const std::optional<std::uint64_t> tag = disk_.next_read(patience);
  if (!tag) return false;
  Slot& slot = slots_[*tag];
  if (--slot.pending > 0) return true;
  free_.push_back(*tag);
  if (slot.blocks != 0)
    sink_.submit_part(slot.number, {slot.blocks, std::move(slot.buffer)});
  else
    sink_.submit(slot.number, std::move(slot.buffer));
  progress_.advance(done_, total_);
  return true;
}

/// A slot that nothing is read into.
std::size_t Reading::free_slot() {
  // What has arrived goes to the sink first: its workers need it, and with it come free buffers.
  while (complete_one(std::chrono::milliseconds(0))) {
  }
  while (free_.empty()) {
    check_stop();
    complete_one(stop_check);
  }
  check_stop();
  return free_.back();
}

void Reading::start(std::uint64_t number, const ChunkRun& run) {
  const std::size_t tag = free_slot();
  if (run.dirty != 0 && start_part(number, run, tag)) return;
  Slot& slot = slots_[tag];
  slot.number = number;
  slot.blocks = 0;
  slot.buffer = sink_.acquire(number);
  free_.pop_back();
  if (!run.pieces.empty()) return start_pieces(number, run.pieces, tag);
  const std::span<std::byte> bytes = slot.buffer.bytes();
  slot.pending = 1;
  done_ += bytes.size();
  disk_.start_read(bytes, number * sink_.chunk_size(), tag);
}

/// Reads the changed blocks alone, where the sink takes them.
bool Reading::start_part(std::uint64_t number, const ChunkRun& run, std::size_t tag) {
  std::optional<ChunkSink::Part> part = sink_.acquire_part(number, run.dirty);
  if (!part) return false;
  Slot& slot = slots_[tag];
  slot = {number, part->blocks, std::move(part->buffer), 0};
  free_.pop_back();
  std::span<std::byte> rest = slot.buffer.bytes();
  std::uint64_t planned = run.pieces.empty() ? sink_.chunk_size() : 0;
  for (const Extent& piece : run.pieces)
    planned += piece.length;
  total_ = total_ + rest.size() - planned;
  corrected_ += rest.size() - planned;
  done_ += rest.size();
  // Runs of blocks, each with one request; all are counted before the first can be answered.
  std::vector<Extent> runs;
  for (std::uint64_t block = 0; block < 64; ++block) {
    if ((part->blocks >> block & 1) == 0) continue;
    const std::uint64_t offset = number * sink_.chunk_size() + block * part_block_bytes;
    if (!runs.empty() && runs.back().offset + runs.back().length == offset)
      runs.back().length += part_block_bytes;
    else
      runs.push_back({offset, part_block_bytes, true});
  }
  slot.pending = runs.size();
  for (const Extent& one : runs) {
    disk_.start_read(rest.first(one.length), one.offset, tag);
    rest = rest.subspan(one.length);
  }
  return true;
}

void Reading::start_pieces(std::uint64_t number, std::span<const Extent> pieces, std::size_t tag) {
  Slot& slot = slots_[tag];
  const std::span<std::byte> bytes = slot.buffer.bytes();
  const std::uint64_t begin = number * sink_.chunk_size();
  slot.pending = pieces.size();
  std::size_t filled = 0;
  for (const Extent& piece : pieces) {
    const auto at = static_cast<std::size_t>(piece.offset - begin);
    std::memset(bytes.data() + filled, 0, at - filled);
    filled = at + static_cast<std::size_t>(piece.length);
    done_ += piece.length;
    disk_.start_read(bytes.subspan(at, static_cast<std::size_t>(piece.length)), piece.offset, tag);
  }
  std::memset(bytes.data() + filled, 0, bytes.size() - filled);
}

std::uint64_t Reading::run(CapturePlan& plan) {
  plan.look_ahead(look_ahead_limit);
  while (const std::optional<ChunkRun> run = plan.next()) {
    total_ = plan.total() + corrected_;
    if (run->zero) {
      check_stop();
      sink_.submit_zero(run->first, run->count);
      continue;
    }
    for (std::uint64_t i = 0; i < run->count; ++i)
      start(run->first + i, *run);
  }
  while (disk_.reads_in_flight() > 0) {
    check_stop();
    complete_one(stop_check);
  }
  progress_.advance(done_, total_);
  return done_;
}

}  // namespace

CaptureCounts capture_disk(QueuedReader& disk, bool incremental, ChunkSink& sink, CaptureProgress& progress,
                           const std::stop_token& stop) {
  if (incremental && !disk.has_dirty_bitmap()) throw CaptureError("the disk's source has no dirty bitmap");
  CapturePlan plan(disk, sink.chunk_size(), incremental);
  CaptureCounts counts;
  counts.read = Reading(disk, sink, progress, stop).run(plan);
  counts.changed = plan.changed();
  return counts;
}

}  // namespace stillpoint
