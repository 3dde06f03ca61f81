// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

namespace stillpoint::test {

/// A sink as the repository's: few buffers, given back by a worker thread. Keeps the chunks.
class CollectingSink : public ChunkSink, private ChunkBuffer::Pool {
 public:
  CollectingSink(std::uint64_t disk_size, std::uint32_t chunk_size, std::size_t buffers)
      : disk_size_(disk_size), chunk_size_(chunk_size), buffers_(buffers), worker_([this] { work(); }) {
    for (std::size_t i = 0; i < buffers; ++i) {
      storage_.emplace_back(chunk_size);
      free_.push_back(storage_.back().data());
    }
  }
  CollectingSink(const CollectingSink&) = delete;
  CollectingSink& operator=(const CollectingSink&) = delete;
  ~CollectingSink() override { finish(); }

  [[nodiscard]] std::uint32_t chunk_size() const override { return chunk_size_; }
  [[nodiscard]] std::size_t buffers_per_reader() const override { return buffers_; }

  [[nodiscard]] ChunkBuffer acquire(std::uint64_t number) override {
    return take(number, std::min<std::uint64_t>(chunk_size_, disk_size_ - number * chunk_size_));
  }
  void submit(std::uint64_t number, ChunkBuffer buffer) override { submit_part(number, {0, std::move(buffer)}); }

  [[nodiscard]] std::optional<Part> acquire_part(std::uint64_t number, std::uint64_t blocks) override {
    REQUIRE(blocks != 0);
    REQUIRE((number + 1) * chunk_size_ <= disk_size_);
    if (!take_parts || number % 5 == 0) return std::nullopt;
    blocks |= patched(number);
    return Part{blocks, take(number, static_cast<std::uint64_t>(std::popcount(blocks)) * part_block_bytes)};
  }
  void submit_part(std::uint64_t number, Part part) override {
    const std::lock_guard lock(mutex_);
    if (submits_until_failure == 0) throw std::runtime_error("the sink is full");
    --submits_until_failure;
    queue_.emplace_back(number, std::move(part));
    changed_.notify_all();
  }
  void submit_zero(std::uint64_t first, std::uint64_t count) override {
    REQUIRE(count > 0);
    ascend(first, count);
    for (std::uint64_t i = 0; i < count; ++i)
      zeros.insert(first + i);
  }

  /// Waits for the worker.
  void finish() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    if (worker_.joinable()) worker_.join();
  }

  /// What the chunks and zeros make of `disk`.
  void apply(std::vector<std::byte>& disk) {
    finish();
    for (const std::uint64_t number : zeros) {
      const std::uint64_t begin = number * chunk_size_;
      const std::uint64_t end = std::min<std::uint64_t>(begin + chunk_size_, disk.size());
      std::fill(disk.begin() + static_cast<std::ptrdiff_t>(begin), disk.begin() + static_cast<std::ptrdiff_t>(end),
                std::byte{0});
    }
    for (const auto& [number, part] : parts) {
      auto from = part.second.begin();
      for (std::uint64_t block = 0; block < 64; ++block) {
        if ((part.first >> block & 1) == 0) continue;
        const std::uint64_t at = number * chunk_size_ + block * part_block_bytes;
        std::copy_n(from, part_block_bytes, disk.begin() + static_cast<std::ptrdiff_t>(at));
        from += part_block_bytes;
      }
    }
    for (const auto& [number, bytes] : chunks) {
      const std::uint64_t begin = number * chunk_size_;
      REQUIRE(begin + bytes.size() <= disk.size());
      std::copy(bytes.begin(), bytes.end(), disk.begin() + static_cast<std::ptrdiff_t>(begin));
    }
  }
  [[nodiscard]] std::size_t buffers_free() {
    finish();
    return free_.size();
  }

  std::map<std::uint64_t, std::vector<std::byte>> chunks;
  std::set<std::uint64_t> zeros;
  /// Blocks that the sink asks for besides those that are dirty, as for an earlier patch.
  [[nodiscard]] std::uint64_t patched(std::uint64_t number) const {
    return number % 3 & ((std::uint64_t{1} << chunk_size_ / part_block_bytes) - 1);
  }
  std::map<std::uint64_t, std::pair<std::uint64_t, std::vector<std::byte>>> parts;  ///< blocks, and what they hold
  bool take_parts = false;
  std::size_t submits_until_failure = SIZE_MAX;

 private:
  ChunkBuffer take(std::uint64_t number, std::uint64_t length) {
    ascend(number, 1);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !free_.empty(); });
    std::byte* const storage = free_.back();
    free_.pop_back();
    lock.unlock();
    std::fill_n(storage, chunk_size_, std::byte{0xee});
    return {this, storage, static_cast<std::size_t>(length)};
  }
  void ascend(std::uint64_t first, std::uint64_t count) {
    REQUIRE(first >= next_);
    next_ = first + count;
    REQUIRE(first * chunk_size_ < disk_size_);
    REQUIRE((next_ - 1) * chunk_size_ < disk_size_);
  }
  void give_back(std::byte* storage) noexcept override {
    const std::lock_guard lock(mutex_);
    free_.push_back(storage);
    changed_.notify_all();
  }
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return ended_ || !queue_.empty(); });
      if (queue_.empty()) return;
      auto [number, part] = std::move(queue_.front());
      queue_.pop_front();
      const auto bytes = std::as_const(part.buffer).bytes();
      std::vector<std::byte> copy(bytes.begin(), bytes.end());
      if (part.blocks != 0)
        parts.emplace(number, std::pair(part.blocks, std::move(copy)));
      else
        chunks.emplace(number, std::move(copy));
      lock.unlock();
      part.buffer = {};
      lock.lock();
    }
  }

  std::uint64_t disk_size_;
  std::uint32_t chunk_size_;
  std::size_t buffers_;
  std::uint64_t next_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::vector<std::byte>> storage_;
  std::vector<std::byte*> free_;
  std::deque<std::pair<std::uint64_t, Part>> queue_;
  bool ended_ = false;
  std::thread worker_;
};

struct CountingProgress : CaptureProgress {
  void advance(std::uint64_t now, std::uint64_t all) override {
    CHECK(now >= done);
    CHECK(now <= all);
    done = now;
    total = all;
  }
  std::uint64_t done = 0;
  std::uint64_t total = 0;
};

}  // namespace stillpoint::test
