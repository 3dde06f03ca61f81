// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/buffer-pool.hh"

#include "common/direct-file.hh"

#include <cstdlib>
#include <stdexcept>

namespace stillpoint {

BufferPool::BufferPool(std::size_t buffer_bytes, std::size_t limit) : buffer_bytes_(buffer_bytes), limit_(limit) {
  free_.reserve(limit);
}

BufferPool::~BufferPool() {
  for (std::byte* storage : free_)
    std::free(storage);
}

ChunkBuffer BufferPool::acquire(std::size_t length) {
  if (length > buffer_bytes_) throw std::length_error("a chunk longer than the pool's buffers");
  std::unique_lock lock(mutex_);
  returned_.wait(
      lock, [this] { return failure_ || !free_.empty() || allocated_ < limit_ || with_readers_.size() >= allocated_; });
  if (failure_) std::rethrow_exception(failure_);
  std::byte* storage = nullptr;
  if (free_.empty()) {
    storage = allocate_aligned(buffer_bytes_).release();
    ++allocated_;
  } else {
    storage = free_.back();
    free_.pop_back();
  }
  ChunkBuffer buffer(this, storage, length);
  with_readers_.insert(storage);
  return buffer;
}

void BufferPool::hand_over(const ChunkBuffer& buffer) {
  const std::scoped_lock lock(mutex_);
  with_readers_.erase(const_cast<std::byte*>(buffer.bytes().data()));
}

void BufferPool::give_back(std::byte* storage) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    with_readers_.erase(storage);
    if (allocated_ > limit_) {
      std::free(storage);
      --allocated_;
    } else {
      free_.push_back(storage);
    }
  }
  returned_.notify_all();
}

void BufferPool::fail(std::exception_ptr failure) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    if (!failure_) failure_ = std::move(failure);
  }
  returned_.notify_all();
}

}  // namespace stillpoint
