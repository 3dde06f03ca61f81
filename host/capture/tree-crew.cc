// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/tree-crew.hh"

#include <algorithm>
#include <utility>

namespace stillpoint {
namespace {

constexpr std::size_t most_entries = 64;  // of a batch
/// Each holds two descriptors.
constexpr std::size_t most_directories = 8;
/// One large file is enough for a thread; the next one is another's.
constexpr std::uint64_t most_content = std::uint64_t{4} << 20;
constexpr std::size_t most_queued = 4;  // batches

}  // namespace

TreeCrew::TreeCrew(MetadataKeeper& keeper, std::vector<std::unique_ptr<EntryWriter>> writers)
    : keeper_(keeper), writers_(std::move(writers)) {
  for (const auto& writer : writers_)
    threads_.emplace_back([this, &writer = *writer] { serve(writer); });
}

TreeCrew::~TreeCrew() {
  {
    const std::lock_guard lock(mutex_);
    queue_.clear();
    abandoned_ = true;
  }
  join();
}

void TreeCrew::join() noexcept {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  work_.notify_all();
  threads_.clear();
}

void TreeCrew::add(Work work) {
  if (next_.empty() || next_.back().directory != work.directory) ++directories_;
  bytes_ += work.entry.size;
  work.directory->hold();
  next_.push_back(std::move(work));
  if (next_.size() >= most_entries || directories_ >= most_directories || bytes_ >= most_content) post();
}

void TreeCrew::post() {
  std::unique_lock lock(mutex_);
  room_.wait(lock, [this] { return queue_.size() < most_queued || failure_; });
  if (failure_) std::rethrow_exception(failure_);
  if (!next_.empty()) queue_.push_back(std::exchange(next_, {}));
  directories_ = 0;
  bytes_ = 0;
  lock.unlock();
  work_.notify_one();
}

void TreeCrew::wait() {
  post();
  std::unique_lock lock(mutex_);
  room_.wait(lock, [this] { return (queue_.empty() && busy_ == 0) || failure_; });
  if (failure_) std::rethrow_exception(failure_);
}

void TreeCrew::finish() {
  post();
  join();
  if (failure_) std::rethrow_exception(failure_);
}

void TreeCrew::run(EntryWriter& writer, Batch& batch) {
  for (Work& work : batch) {
    writer.write(*work.directory, work.name, work.entry);
    std::exchange(work.directory, nullptr)->leave(keeper_);
  }
}

/// Of the exception in flight: the first one counts.
void TreeCrew::fail() noexcept {
  const std::lock_guard lock(mutex_);
  if (!failure_) failure_ = std::current_exception();
  queue_.clear();
}

void TreeCrew::serve(EntryWriter& writer) {
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return !queue_.empty() || ending_; });
    if (queue_.empty()) break;
    Batch batch = std::move(queue_.front());
    queue_.pop_front();
    ++busy_;
    lock.unlock();
    room_.notify_one();
    try {
      run(writer, batch);
    } catch (...) {
      fail();
    }
    batch.clear();
    lock.lock();
    --busy_;
    room_.notify_one();
  }
  const bool whole = !failure_ && !abandoned_;
  lock.unlock();
  try {
    if (whole) writer.finish();
  } catch (...) {
    fail();
  }
}

std::uint64_t TreeCrew::files_written() const noexcept {
  std::uint64_t count = 0;
  for (const auto& writer : writers_)
    count += writer->files_written();
  return count;
}

std::uint64_t TreeCrew::bytes_written() const noexcept {
  std::uint64_t count = 0;
  for (const auto& writer : writers_)
    count += writer->bytes_written();
  return count;
}

}  // namespace stillpoint
