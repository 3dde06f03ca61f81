// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/ceph/module/rbd-queue.hh"

#include "host/ceph/module/cluster.hh"

#include <fmt/format.h>

#include <cerrno>
#include <utility>

namespace stillpoint {
namespace {

/// Half of it costs the OSD and us a tenth more of processor time for the same bytes; longer ones leave too few in
/// flight.
constexpr std::uint64_t most_bytes_together = 2 << 20;

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
  const std::uint64_t offset = gathering_->offset;
  const std::size_t tags = gathering_->tags.size();
  const int result = answers_.send(std::move(gathering_), [this](Request& request) { return start(request); });
  if (result >= 0) return;
  started_ -= tags;
  throw CephError(fmt::format("{}: cannot start a request at {}", words_, offset), -result);
}

int RbdQueue::start(Request& request) {
  rbd_completion_t completion = nullptr;
  int result = rbd_aio_create_completion(&request, answered, &completion);
  if (result < 0) return result;
  const auto pieces = static_cast<int>(request.pieces.size());
  switch (request.kind) {
    case Kind::read:
      result = rbd_aio_readv(image_, request.pieces.data(), pieces, request.offset, completion);
      break;
    case Kind::write:
      result = rbd_aio_writev(image_, request.pieces.data(), pieces, request.offset, completion);
      break;
    case Kind::zero:
      result = rbd_aio_write_zeroes(image_, request.offset, request.length, completion, 0, 0);
      break;
  }
  if (result < 0) rbd_aio_release(completion);
  return result;
}

void RbdQueue::answered(rbd_completion_t completion, void* user) noexcept {
  auto* const request = static_cast<Request*>(user);
  request->result = rbd_aio_get_return_value(completion);
  rbd_aio_release(completion);
  Answers<Request>::put(request);
}

void RbdQueue::take_answers(std::chrono::milliseconds patience) {
  int error = 0;
  std::uint64_t where = 0;
  for (auto request = answers_.next(patience); request != nullptr;
       request = answers_.next(std::chrono::milliseconds(0))) {
    const bool is_short = request->kind == Kind::read && request->result >= 0 &&
                          static_cast<std::uint64_t>(request->result) != request->length;
    if (request->result < 0 || is_short) {
      error = is_short ? EIO : static_cast<int>(-request->result);
      where = request->offset;
      started_ -= request->tags.size();
      continue;
    }
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
  answers_.drain();
  started_ = 0;
  complete_.clear();
}

}  // namespace stillpoint
