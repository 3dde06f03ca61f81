// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/capture-plan.hh"

#include "common/clock.hh"
#include "common/errors.hh"

#include <algorithm>
#include <bit>
#include <utility>

namespace stillpoint {
namespace {

constexpr std::uint64_t window_bytes = std::uint64_t{1} << 30;
constexpr std::size_t most_runs_ahead = 100000;
/// A hole inside a chunk that is shorter than this is read with the data around it: one request less costs more.
constexpr std::uint64_t least_hole = 64 << 10;

std::uint64_t end_of(const Extent& extent) {
  return extent.offset + extent.length;
}

}  // namespace

Extent CapturePlan::Cursor::at(std::uint64_t offset) {
  while (index_ < window_.size() && end_of(window_[index_]) <= offset)
    ++index_;
  if (index_ == window_.size()) {
    window_ = ask_(offset, std::min(size_ - offset, window_bytes));
    index_ = 0;
    if (window_.empty() || window_.front().offset != offset || window_.front().length == 0)
      throw CaptureError("the disk's source does not tell its extents where it was asked");
    for (const Extent& extent : window_)
      if (extent.data) data_ += extent.length;
  }
  const std::uint64_t end = end_of(window_[index_]);
  return {offset, end - offset, window_[index_].data};
}

CapturePlan::CapturePlan(QueuedReader& disk, std::uint32_t chunk_size, bool incremental)
    : size_(disk.size()),
      chunk_size_(chunk_size),
      incremental_(incremental),
      allocated_([&disk](std::uint64_t offset, std::uint64_t length) { return disk.extents(offset, length); }, size_),
      dirty_([&disk](std::uint64_t offset, std::uint64_t length) { return disk.dirty_extents(offset, length); },
             size_) {}

std::uint64_t CapturePlan::whole_chunks(std::uint64_t end) const noexcept {
  return end == size_ ? (end - position_ + chunk_size_ - 1) / chunk_size_ : (end - position_) / chunk_size_;
}

/// Moves on to the first chunk that the bitmap touches, or to the end.
CapturePlan::Dirty CapturePlan::skip_clean() {
  while (position_ < size_) {
    const std::uint64_t end = std::min(position_ + chunk_size_, size_);
    const bool in_blocks = end - position_ == chunk_size_ && chunk_size_ % part_block_bytes == 0;
    Dirty dirty{end, 0};
    bool any = false;
    bool all = true;
    std::uint64_t at = position_;
    while (at < end) {
      const Extent extent = dirty_.at(at);
      const std::uint64_t until = std::min(end_of(extent), end);
      if (!extent.data) {
        all = false;
        // Nothing dirty in it so far: none of the chunks that lie in this extent as a whole is.
        if (!any) at = end_of(extent);
      } else {
        any = true;
        for (std::uint64_t block = (at - position_) / part_block_bytes; block * part_block_bytes < until - position_;
             ++block)
          dirty.blocks |= std::uint64_t{1} << (block % 64);
        if (all && until == end) dirty.end = end_of(extent);
      }
      at = std::max(at, until);
    }
    if (any) {
      if (!in_blocks || static_cast<std::uint64_t>(std::popcount(dirty.blocks)) == chunk_size_ / part_block_bytes)
        dirty.blocks = 0;
      return dirty;
    }
    position_ = at == size_ ? size_ : at / chunk_size_ * chunk_size_;
  }
  return {size_, 0};
}

std::optional<ChunkRun> CapturePlan::make() {
  const Dirty dirty = incremental_ ? skip_clean() : Dirty{size_, 0};
  if (position_ >= size_) return std::nullopt;
  const std::uint64_t chunk_end = std::min(position_ + chunk_size_, size_);
  ChunkRun run{position_ / chunk_size_, 1, false, {}, dirty.blocks};

  const Extent first = allocated_.at(position_);
  if (end_of(first) >= chunk_end) {
    // One extent covers this chunk and maybe many more.
    const std::uint64_t end = std::max(chunk_end, std::min(end_of(first), dirty.end));
    run.count = whole_chunks(end);
    run.zero = !first.data;
  } else {
    for (std::uint64_t at = position_; at < chunk_end;) {
      const Extent extent = allocated_.at(at);
      const std::uint64_t end = std::min(end_of(extent), chunk_end);
      if (extent.data) {
        auto& pieces = run.pieces;
        if (!pieces.empty() && at - end_of(pieces.back()) < least_hole)
          pieces.back().length = end - pieces.back().offset;
        else
          pieces.push_back({at, end - at, true});
      }
      at = end;
    }
    run.zero = run.pieces.empty();
  }
  const std::uint64_t begin = position_;
  position_ = std::min(begin + run.count * chunk_size_, size_);
  if (run.zero) return run;
  std::uint64_t bytes = position_ - begin;
  if (!run.pieces.empty()) {
    bytes = 0;
    for (const Extent& piece : run.pieces)
      bytes += piece.length;
  }
  total_ += bytes;
  return run;
}

std::optional<ChunkRun> CapturePlan::next() {
  if (ahead_.empty()) return make();
  ChunkRun run = std::move(ahead_.front());
  ahead_.pop_front();
  return run;
}

void CapturePlan::look_ahead(std::chrono::milliseconds patience) {
  const Deadline deadline(patience);
  while (ahead_.size() < most_runs_ahead && !deadline.passed()) {
    std::optional<ChunkRun> run = make();
    if (!run) return;
    ahead_.push_back(std::move(*run));
  }
}

}  // namespace stillpoint
