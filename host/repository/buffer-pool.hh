// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <vector>

namespace stillpoint {

/// Page-aligned buffers for chunks, at most so many: who finds none waits for the workers.
///
/// When all are with readers, none can come back: each reader may wait here before it hands over those it holds. Then,
/// and only then, the pool exceeds its limit, so it cannot block for ever. By then it holds at most what the readers
/// have in flight.
class BufferPool : public ChunkBuffer::Pool {
 public:
  BufferPool(std::size_t buffer_bytes, std::size_t limit);
  ~BufferPool() override;
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  /// `length` <= buffer_bytes. Throws what was given to fail().
  [[nodiscard]] ChunkBuffer acquire(std::size_t length);
  /// The reader has filled the buffer: it comes back without the reader's doing.
  void hand_over(const ChunkBuffer& buffer);
  void give_back(std::byte* storage) noexcept override;

  /// Ends all waiting, now and later.
  void fail(std::exception_ptr failure) noexcept;

 private:
  std::size_t buffer_bytes_;
  std::size_t limit_;
  std::mutex mutex_;
  std::condition_variable returned_;
  std::vector<std::byte*> free_;
  std::unordered_set<std::byte*> with_readers_;
  std::size_t allocated_ = 0;
  std::exception_ptr failure_;
};

}  // namespace stillpoint
