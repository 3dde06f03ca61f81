// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/direct-file.hh"
#include "host/repository/store.hh"

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace stillpoint {

/// Writes an object on a thread of its own, in large blocks, so that whoever makes the bytes does not wait for the
/// store. append() and commit() by one thread at a time; what goes wrong is thrown by the next call of either.
class QueuedWriter : public ObjectWriter {
 public:
  explicit QueuedWriter(std::unique_ptr<ObjectWriter> object);
  QueuedWriter(const QueuedWriter&) = delete;
  QueuedWriter& operator=(const QueuedWriter&) = delete;
  ~QueuedWriter() override;

  void append(std::span<const std::byte> bytes) override;
  void commit() override;

 private:
  struct Block {
    AlignedBytes storage;
    std::size_t used = 0;
  };

  [[nodiscard]] Block free_block();
  void hand_over();
  void end();
  void write_blocks();

  std::unique_ptr<ObjectWriter> object_;
  Block filling_;  ///< the caller's alone; without storage between two blocks
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Block> full_;
  std::vector<Block> free_;
  std::size_t blocks_ = 0;  ///< that exist
  bool ending_ = false;
  std::atomic<bool> abandoned_ = false;
  std::exception_ptr failure_;
  std::jthread thread_;
};

}  // namespace stillpoint
