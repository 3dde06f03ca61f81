// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/file.hh"
#include "host/capture/tree-wire.hh"

#include <sys/types.h>

#include <chrono>
#include <span>
#include <string_view>

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
  /// died, fell silent or broke the rules, and what reading the disk throws.
  [[nodiscard]] wire::Message receive(BlockReader& disk);

 private:
  [[nodiscard]] wire::Message receive_one();
  void answer(BlockReader& disk, std::string_view request);
  void receive_exactly(std::span<char> buffer);
  void wait_for(short events);
  [[noreturn]] void died();

  UniqueFd socket_;
  pid_t pid_ = -1;
};

}  // namespace stillpoint
