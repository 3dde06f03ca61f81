// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/restore-disk.hh"

#include "common/direct-file.hh"
#include "common/errors.hh"
#include "host/restore/disk-target.hh"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace stillpoint {
namespace {

constexpr std::uint64_t piece_bytes = 256 << 10;
constexpr std::size_t batch_pieces = 32;
constexpr std::uint64_t window_bytes = std::uint64_t{1} << 30;

/// What is read in one go and written in one go.
struct Batch {
  AlignedBytes storage = allocate_aligned(batch_pieces * piece_bytes);
  std::vector<BlockReader::Request> reads;
  std::size_t used = 0;
};

/// Writes batches on a thread of its own, so that reading (and unpacking) goes on meanwhile.
class BatchWriter {
 public:
  explicit BatchWriter(DiskTarget& target) : target_(target), thread_([this] { run(); }) {}
  BatchWriter(const BatchWriter&) = delete;
  BatchWriter& operator=(const BatchWriter&) = delete;
  ~BatchWriter() { end(); }

  /// Hands `batch` over and returns with another one in it, as soon as one is free. Throws what writing threw.
  void exchange(Batch& batch) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !full_; });
    if (failure_) std::rethrow_exception(failure_);
    std::swap(batch, batch_);
    full_ = true;
    lock.unlock();
    changed_.notify_all();
    batch.reads.clear();
    batch.used = 0;
  }

  /// Waits until everything is written. Throws what writing threw.
  void finish() {
    end();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return full_ || ended_; });
      if (!full_) return;
      lock.unlock();
      try {
        if (!failure_) write();
      } catch (...) {
        failure_ = std::current_exception();
      }
      lock.lock();
      full_ = false;
      changed_.notify_all();
    }
  }
  void write() {
    pieces_.clear();
    for (const BlockReader::Request& read : batch_.reads)
      pieces_.push_back({read.offset, read.buffer});
    target_.write(pieces_);
  }
  void end() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  DiskTarget& target_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Batch batch_;
  bool full_ = false;  ///< batch_ is the writing thread's
  bool ended_ = false;
  std::exception_ptr failure_;  ///< set while batch_ is the writing thread's
  std::vector<DiskTarget::Piece> pieces_;
  std::thread thread_;
};

void for_each_extent(BlockReader& disk, const std::function<void(const Extent&)>& consume) {
  const std::uint64_t size = disk.size();
  for (std::uint64_t at = 0; at < size;) {
    const std::vector<Extent> window = disk.extents(at, std::min(size - at, window_bytes));
    if (window.empty()) throw CaptureError("the disk's source does not tell its extents");
    for (const Extent& extent : window)
      consume(extent);
    at = window.back().offset + window.back().length;
  }
}

std::uint64_t bytes_of_data(BlockReader& disk) {
  std::uint64_t bytes = 0;
  for_each_extent(disk, [&bytes](const Extent& extent) { bytes += extent.data ? extent.length : 0; });
  return bytes;
}

}  // namespace

WrittenRanges write_ranges(BlockReader& disk, DiskTarget& target, const Ranges& ranges, std::uint64_t total,
                           CaptureProgress& progress, RateLimit* limit) {
  WrittenRanges written;
  std::vector<Extent> holes;
  {
    BatchWriter writer(target);
    Batch batch;
    const auto hand_over = [&] {
      if (batch.reads.empty()) return;
      if (limit != nullptr) limit->take(batch.used);
      disk.pread_many(batch.reads);
      written.data += batch.used;
      writer.exchange(batch);
      progress.advance(written.data, std::max(total, written.data));
    };
    ranges([&](const Extent& extent) {
      if (!extent.data) {
        holes.push_back(extent);
        return;
      }
      for (std::uint64_t at = extent.offset, end = extent.offset + extent.length; at < end;) {
        const std::uint64_t next = std::min(end, (at / piece_bytes + 1) * piece_bytes);
        const auto length = static_cast<std::size_t>(next - at);
        batch.reads.push_back({at, std::span(batch.storage.get() + batch.used, length)});
        batch.used += length;
        at = next;
        if (batch.reads.size() == batch_pieces) hand_over();
      }
    });
    hand_over();
    writer.finish();
  }
  for (const Extent& hole : holes) {
    target.zero(hole.offset, hole.length);
    written.zeros += hole.length;
  }
  return written;
}

WrittenRanges fill_target(BlockReader& disk, DiskTarget& target, CaptureProgress& progress, RateLimit* limit) {
  return write_ranges(
      disk, target, [&disk](const auto& consume) { for_each_extent(disk, consume); }, bytes_of_data(disk), progress,
      limit);
}

void restore_disk(BlockReader& disk, DiskTarget& target, CaptureProgress& progress, RateLimit* limit) {
  fill_target(disk, target, progress, limit);
  target.complete();
}

void restore_disk(BlockReader& disk, const std::filesystem::path& target, std::string_view format, bool overwrite,
                  CaptureProgress& progress, RateLimit* limit) {
  restore_disk(disk, *open_disk_target(target, format, disk.size(), overwrite), progress, limit);
}

}  // namespace stillpoint
