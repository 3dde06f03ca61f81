// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/block-service.hh"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>

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

void Parent::receive_blocks(std::span<std::string*> lines) {
  std::array<char, wire::header_bytes> header{};
  read_exactly(header);
  const wire::Header parsed = wire::parse_header({header.data(), header.size()});
  std::size_t expected = 0;
  for (const std::string* line : lines)
    expected += line->size();
  if (parsed.type != wire::Type::blocks || parsed.length != expected) ::_exit(1);
  for (std::string* line : lines)
    read_exactly(*line);
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
  std::array<std::string*, read_ahead_lines> received{};
  for (std::uint64_t i = count; i-- > 0;) {
    // A line that is dropped gives its memory to the new one.
    if (lines_.size() == most_lines) {
      index_.erase(lines_.back().number);
      lines_.splice(lines_.begin(), lines_, std::prev(lines_.end()));
    } else {
      lines_.emplace_front();
    }
    Line& made = lines_.front();
    made.number = first + i;
    const std::uint64_t at = begin + i * line_bytes;
    made.bytes.resize(static_cast<std::size_t>(std::min(line_bytes, end - at)));
    index_[made.number] = lines_.begin();
    received[i] = &made.bytes;
  }
  parent_.receive_blocks(std::span(received).first(static_cast<std::size_t>(count)));
}

}  // namespace stillpoint
