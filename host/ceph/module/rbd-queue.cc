// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/ceph/module/rbd-queue.hh"

#include "host/ceph/module/cluster.hh"

#include <fmt/format.h>

#include <cerrno>
#include <utility>

namespace stillpoint {
namespace {

/// Longer ones would leave too few in flight.
constexpr std::uint64_t most_bytes_together = 1 << 20;

}  // namespace

RbdQueue::RbdQueue(rbd_image_t image, std::string words, std::uint64_t object_size)
    : image_(image), words_(std::move(words)), object_size_(object_size) {}

void RbdQueue::read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) {
  add(Kind::read, buffer.data(), buffer.size(), offset, tag);
}

void RbdQueue::write(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t tag) {
  // An iovec knows no const.
  add(Kind::write, const_cast<std::byte*>(bytes.data()), bytes.size(), offset, tag);
}

void RbdQueue::zero(std::uint64_t offset, std::uint64_t length, std::uint64_t tag) {
  send();
  add(Kind::zero, nullptr, length, offset, tag);
  send();
}

void RbdQueue::add(Kind kind, std::byte* bytes, std::uint64_t length, std::uint64_t offset, std::uint64_t tag) {
  if (gathering_) {
    const Request& last = *gathering_;
    const std::uint64_t end = last.offset + last.length;
    if (last.kind != kind || end != offset || end % object_size_ == 0 || last.length + length > most_bytes_together)
      send();
  }
  if (!gathering_) {
    gathering_ = std::make_unique<Request>();
    gathering_->queue = this;
    gathering_->kind = kind;
    gathering_->offset = offset;
  }
  if (bytes != nullptr) gathering_->pieces.push_back({bytes, static_cast<std::size_t>(length)});
  gathering_->tags.push_back(tag);
  gathering_->length += length;
  ++started_;
}

void RbdQueue::send() {
  if (!gathering_) return;
  std::unique_ptr<Request> request = std::move(gathering_);
  {
    const std::lock_guard lock(mutex_);
    answered_.reserve(sent_ + 1);  // nothing may throw where the answer comes
    ++sent_;
  }
  rbd_completion_t completion = nullptr;
  int result = rbd_aio_create_completion(request.get(), answered, &completion);
  const auto pieces = static_cast<int>(request->pieces.size());
  if (result >= 0) {
    switch (request->kind) {
      case Kind::read:
        result = rbd_aio_readv(image_, request->pieces.data(), pieces, request->offset, completion);
        break;
      case Kind::write:
        result = rbd_aio_writev(image_, request->pieces.data(), pieces, request->offset, completion);
        break;
      case Kind::zero:
        result = rbd_aio_write_zeroes(image_, request->offset, request->length, completion, 0, 0);
        break;
    }
    if (result < 0) rbd_aio_release(completion);
  }
  if (result < 0) {
    const std::lock_guard lock(mutex_);
    --sent_;
    started_ -= request->tags.size();
    throw CephError(fmt::format("{}: cannot start a request at {}", words_, request->offset), -result);
  }
  static_cast<void>(request.release());  // answered() has it now
}

void RbdQueue::answered(rbd_completion_t completion, void* user) noexcept {
  auto* const request = static_cast<Request*>(user);
  request->result = rbd_aio_get_return_value(completion);
  rbd_aio_release(completion);
  RbdQueue& queue = *request->queue;
  const std::lock_guard lock(queue.mutex_);
  queue.answered_.push_back(request);
  // Under the lock: who waits may end the queue as soon as he has it.
  queue.answer_.notify_one();
}

void RbdQueue::take_answers(std::chrono::milliseconds patience) {
  std::vector<std::unique_ptr<Request>> taken;
  {
    std::unique_lock lock(mutex_);
    if (answered_.empty() && patience.count() > 0)
      answer_.wait_for(lock, patience, [this] { return !answered_.empty(); });
    taken.reserve(answered_.size());
    for (Request* request : answered_)
      taken.emplace_back(request);
    answered_.clear();
    sent_ -= taken.size();
  }
  int error = 0;
  std::uint64_t where = 0;
  for (const auto& request : taken) {
    started_ -= request->tags.size();
    const bool is_short = request->kind == Kind::read && request->result >= 0 &&
                          static_cast<std::uint64_t>(request->result) != request->length;
    if (request->result < 0 || is_short) {
      error = is_short ? EIO : static_cast<int>(-request->result);
      where = request->offset;
      continue;
    }
    started_ += request->tags.size();
    complete_.insert(complete_.end(), request->tags.begin(), request->tags.end());
  }
  if (error != 0) throw CephError(fmt::format("{}: a request at {} failed", words_, where), error);
}

std::optional<std::uint64_t> RbdQueue::next(std::chrono::milliseconds patience) {
  if (complete_.empty()) {
    // Who does not wait is about to start more.
    if (patience.count() > 0) send();
    take_answers(patience);
  }
  if (complete_.empty()) return std::nullopt;
  const std::uint64_t tag = complete_.front();
  complete_.pop_front();
  --started_;
  return tag;
}

void RbdQueue::drain() noexcept {
  gathering_.reset();
  std::unique_lock lock(mutex_);
  // Each ends within the cluster's limit.
  answer_.wait(lock, [this] { return answered_.size() == sent_; });
  for (Request* request : answered_)
    std::unique_ptr<Request>(request).reset();
  answered_.clear();
  sent_ = 0;
  started_ = 0;
  complete_.clear();
}

}  // namespace stillpoint
