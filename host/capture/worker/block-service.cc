// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/block-service.hh"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace stillpoint {

void Parent::send(std::string_view message) {
  while (!message.empty()) {
    const ssize_t n = ::write(fd_, message.data(), message.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) ::_exit(0);
    message.remove_prefix(static_cast<std::size_t>(n));
  }
}

void Parent::read_exactly(std::span<char> buffer) {
  while (!buffer.empty()) {
    const ssize_t n = ::read(fd_, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) ::_exit(0);
    buffer = buffer.subspan(static_cast<std::size_t>(n));
  }
}

wire::Message Parent::receive() {
  std::array<char, wire::header_bytes> header{};
  read_exactly(header);
  const wire::Header parsed = wire::parse_header({header.data(), header.size()});
  wire::Message message{parsed.type, std::string(parsed.length, '\0')};
  read_exactly(message.payload);
  return message;
}

bool BlockService::read(std::span<std::byte> buffer, std::uint64_t offset) {
  if (offset > size_ || buffer.size() > size_ - offset) return false;
  while (!buffer.empty()) {
    const std::uint64_t number = offset / line_bytes;
    const auto skip = static_cast<std::size_t>(offset % line_bytes);
    const std::string& bytes = line(number);
    const std::size_t part = std::min(buffer.size(), bytes.size() - skip);
    std::memcpy(buffer.data(), bytes.data() + skip, part);
    buffer = buffer.subspan(part);
    offset += part;
  }
  return true;
}

const std::string& BlockService::line(std::uint64_t number) {
  if (const auto found = index_.find(number); found != index_.end()) {
    lines_.splice(lines_.begin(), lines_, found->second);
    return lines_.front().bytes;
  }
  // Misses in sequence are a long read (an inode table, a large directory): fetch ahead.
  std::uint64_t count = 1;
  if (number == last_miss_ + 1) {
    while (count < read_ahead_lines && (number + count) * line_bytes < size_ && !index_.contains(number + count))
      ++count;
  }
  last_miss_ = number + count - 1;
  fetch(number, count);
  return lines_.front().bytes;
}

/// Leaves line `first` at the front.
void BlockService::fetch(std::uint64_t first, std::uint64_t count) {
  const std::uint64_t begin = first * line_bytes;
  const std::uint64_t end = std::min(size_, (first + count) * line_bytes);
  wire::Writer request(wire::Type::read);
  request.u64(begin);
  request.u32(static_cast<std::uint32_t>(end - begin));
  parent_.send(request.finish());
  const wire::Message answer = parent_.receive();
  if (answer.type != wire::Type::blocks || answer.payload.size() != end - begin) ::_exit(1);
  for (std::uint64_t i = count; i-- > 0;) {
    if (lines_.size() == most_lines) {
      index_.erase(lines_.back().number);
      lines_.pop_back();
    }
    lines_.push_front({first + i, answer.payload.substr(i * line_bytes, line_bytes)});
    index_[first + i] = lines_.begin();
  }
}

}  // namespace stillpoint
