// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/ceph/module/answers.hh"

#include <rbd/librbd.h>
#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace stillpoint {

/// Requests to an image that are on their way. Neighbours that are started one after the other become one request, for
/// one of librbd costs as much as copying some hundred KiB.
class RbdQueue {
 public:
  /// `words` name the image. `object_size`: no request of several neighbours crosses an object's border.
  RbdQueue(rbd_image_t image, std::string words, std::uint64_t object_size);
  RbdQueue(const RbdQueue&) = delete;
  RbdQueue& operator=(const RbdQueue&) = delete;

  void read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag);
  void write(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t tag);
  void zero(std::uint64_t offset, std::uint64_t length, std::uint64_t tag);

  [[nodiscard]] std::optional<std::uint64_t> next(std::chrono::milliseconds patience);
  [[nodiscard]] std::size_t in_flight() const noexcept { return started_; }
  void drain() noexcept;

 private:
  enum class Kind { read, write, zero };
  struct Request {
    Answers<Request>* answers = nullptr;
    Kind kind = Kind::read;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    std::vector<iovec> pieces;
    std::vector<std::uint64_t> tags;
    std::int64_t result = 0;
  };

  void add(Kind kind, std::byte* bytes, std::uint64_t length, std::uint64_t offset, std::uint64_t tag);
  void send();
  [[nodiscard]] int start(Request& request);
  static void answered(rbd_completion_t completion, void* request) noexcept;
  void take_answers(std::chrono::milliseconds patience);

  rbd_image_t image_;
  std::string words_;
  std::uint64_t object_size_;
  std::unique_ptr<Request> gathering_;
  std::size_t started_ = 0;  ///< tags not yet returned
  std::deque<std::uint64_t> complete_;
  Answers<Request> answers_;
};

}  // namespace stillpoint
