// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/file.hh"
#include "host/capture/tree-wire.hh"

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A running stillpoint-tree-worker and our end of the socket to it. Its destructor kills it.
class TreeWorker {
 public:
  /// Throws CaptureError when it is not installed or does not start.
  TreeWorker();
  TreeWorker(const TreeWorker&) = delete;
  TreeWorker& operator=(const TreeWorker&) = delete;
  ~TreeWorker();

  void send(std::string_view message);
  /// The next message that is no block request; those are answered from `disk`. Throws CaptureError when the worker
  /// died, fell silent or broke the rules, and what reading the disk throws. It is valid until the next call.
  [[nodiscard]] const wire::Message& receive(BlockReader& disk);

 private:
  void receive_one();
  void answer(BlockReader& disk);
  void receive_exactly(std::span<char> buffer);
  void wait_for(short events);
  [[noreturn]] void died();

  UniqueFd socket_;
  pid_t pid_ = -1;
  wire::Message message_;
  std::vector<std::byte> answer_;  ///< a header and the blocks
};

}  // namespace stillpoint
