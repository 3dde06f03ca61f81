// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/pack-stream.hh"

#include <algorithm>
#include <utility>

namespace stillpoint {

namespace {

/// Packs waiting for the disk; beyond it the workers wait too, so that a slow disk does not fill the page cache.
constexpr std::size_t max_full_packs = 2;

}  // namespace

PackStream::PackStream(Store& store, std::span<const std::byte, 16> repository, Index& index, bool sealed)
    : store_(store), index_(index), sealed_(sealed) {
  std::copy(repository.begin(), repository.end(), repository_.begin());
}

PackStream::~PackStream() {
  {
    const std::scoped_lock lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
}

void PackStream::append(const RecordHeader& header, std::span<const std::byte> record) {
  std::unique_lock lock(mutex_);
  if (current_ && !current_->writer.has_room(record.size())) {
    changed_.wait(lock, [this] { return failure_ || full_.size() < max_full_packs; });
    // Another thread may have made room while this one waited.
    if (!failure_ && current_ && !current_->writer.has_room(record.size())) hand_to_sealer();
  }
  if (failure_) std::rethrow_exception(failure_);
  try {
    if (!current_) {
      PackWriter writer(store_, repository_, sealed_);
      const std::uint32_t number = index_.begin_pack(writer.id());
      current_ = std::make_unique<Open>(Open{std::move(writer), number});
    }
    const std::uint32_t offset = current_->writer.append(header, record);
    index_.add(header.id, current_->number, offset, header.stored, header.plain);
  } catch (...) {
    // The pack's end is unknown now: it is of no further use.
    failure_ = std::current_exception();
    current_.reset();
    changed_.notify_all();
    throw;
  }
}

void PackStream::hand_to_sealer() {
  full_.push_back(std::move(current_));
  if (!sealer_.joinable()) sealer_ = std::jthread([this] { seal_packs(); });
  changed_.notify_all();
}

void PackStream::seal_packs() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || failure_ || !full_.empty(); });
    if (ending_ || failure_) return;
    Open& open = *full_.front();
    lock.unlock();
    std::exception_ptr thrown;
    try {
      open.writer.seal();
      index_.seal_pack(open.number);
    } catch (...) {
      thrown = std::current_exception();
    }
    lock.lock();
    if (thrown && !failure_) failure_ = thrown;
    full_.pop_front();
    changed_.notify_all();
  }
}

void PackStream::flush() {
  std::unique_lock lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
  if (current_) hand_to_sealer();
  changed_.wait(lock, [this] { return failure_ || full_.empty(); });
  if (failure_) std::rethrow_exception(failure_);
}

}  // namespace stillpoint
