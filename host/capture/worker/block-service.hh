// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/tree-wire.hh"

#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace stillpoint {

/// The worker's end of the socket pair. When the reader has gone, the worker ends.
class Parent {
 public:
  explicit Parent(int fd) : fd_(fd) {}

  void send(std::string_view message);
  [[nodiscard]] wire::Message receive();
  /// As receive(), of blocks in as many pieces as `lines` has. Anything else ends the worker.
  void receive_blocks(std::span<std::string*> lines);

 private:
  void read_exactly(std::span<char> buffer);
  int fd_;
};

/// The disk as the worker sees it: asked for from the reader, through a cache that keeps what metadata needs.
class BlockService {
 public:
  explicit BlockService(Parent& parent) : parent_(parent) {}

  void set_size(std::uint64_t size) { size_ = size; }
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  /// False when the range does not lie inside the disk.
  [[nodiscard]] bool read(std::span<std::byte> buffer, std::uint64_t offset);

 private:
  static constexpr std::uint64_t line_bytes = 64 << 10;
  static constexpr std::size_t most_lines = 1024;
  static constexpr std::uint64_t read_ahead_lines = 4;

  struct Line {
    std::uint64_t number = 0;
    std::string bytes;
  };
  const std::string& line(std::uint64_t number);
  void fetch(std::uint64_t first, std::uint64_t count);

  Parent& parent_;
  std::uint64_t size_ = 0;
  std::uint64_t last_miss_ = UINT64_MAX;
  std::list<Line> lines_;  ///< most recently used first
  std::unordered_map<std::uint64_t, std::list<Line>::iterator> index_;
};

}  // namespace stillpoint
