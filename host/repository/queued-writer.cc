// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/queued-writer.hh"

#include <algorithm>
#include <cstring>
#include <utility>

namespace stillpoint {

namespace {

constexpr std::size_t block_bytes = 1 << 20;
/// Of one object; beyond them append() waits, so that a slow store does not fill the memory.
constexpr std::size_t most_blocks = 8;

}  // namespace

QueuedWriter::QueuedWriter(std::unique_ptr<ObjectWriter> object) : object_(std::move(object)) {
  thread_ = std::jthread([this] { write_blocks(); });
}

QueuedWriter::~QueuedWriter() {
  abandoned_ = true;
  end();
}

void QueuedWriter::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (!filling_.storage) filling_ = free_block();
    const std::size_t part = std::min(bytes.size(), block_bytes - filling_.used);
    std::memcpy(filling_.storage.get() + filling_.used, bytes.data(), part);
    filling_.used += part;
    bytes = bytes.subspan(part);
    if (filling_.used == block_bytes) hand_over();
  }
}

void QueuedWriter::commit() {
  if (filling_.used > 0) hand_over();
  end();
  if (failure_) std::rethrow_exception(failure_);
  object_->commit();
}

QueuedWriter::Block QueuedWriter::free_block() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return failure_ || !free_.empty() || blocks_ < most_blocks; });
  if (failure_) std::rethrow_exception(failure_);
  if (free_.empty()) {
    Block block{allocate_aligned(block_bytes), 0};
    ++blocks_;
    return block;
  }
  Block block = std::move(free_.back());
  free_.pop_back();
  return block;
}

void QueuedWriter::hand_over() {
  {
    const std::scoped_lock lock(mutex_);
    full_.push_back(std::exchange(filling_, {}));
  }
  changed_.notify_all();
}

void QueuedWriter::end() {
  {
    const std::scoped_lock lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void QueuedWriter::write_blocks() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !full_.empty(); });
    if (full_.empty() || failure_ || abandoned_) return;
    Block block = std::move(full_.front());
    full_.pop_front();
    lock.unlock();
    try {
      object_->append({block.storage.get(), block.used});
    } catch (...) {
      const std::scoped_lock again(mutex_);
      failure_ = std::current_exception();
    }
    block.used = 0;
    lock.lock();
    free_.push_back(std::move(block));
    changed_.notify_all();
  }
}

}  // namespace stillpoint
