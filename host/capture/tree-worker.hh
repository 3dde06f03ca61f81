// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/clock.hh"
#include "common/file.hh"
#include "host/capture/tree-wire.hh"

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A program that parses what a guest wrote.
struct WorkerProgram {
  std::string_view name = "stillpoint-tree-worker";  ///< beside our own programs
  std::string_view words = "the file system's worker";
  std::vector<std::string> environment;   ///< "NAME=value"
  std::chrono::seconds answer_limit{60};  ///< of one answer; longer than any honest one takes
  bool asks_for_blocks_apart = false;     ///< over a socket of its own, whenever it wants
  bool has_errors = false;                ///< our standard error is its own too
  std::stop_token stop;                   ///< ends waiting, with Interrupted
};

/// Where such a program lies.
[[nodiscard]] std::filesystem::path worker_path(std::string_view program);

/// A running worker and our ends of the sockets to it. Its destructor ends it.
class TreeWorker {
 public:
  /// Throws CaptureError when it is not installed or does not start.
  explicit TreeWorker(WorkerProgram program = {});
  TreeWorker(const TreeWorker&) = delete;
  TreeWorker& operator=(const TreeWorker&) = delete;
  ~TreeWorker();

  void send(std::string_view message);
  /// The next message that is no block request; those are answered from `disk`. Throws CaptureError when the worker
  /// died, fell silent or broke the rules, and what reading the disk throws. It is valid until the next call.
  [[nodiscard]] const wire::Message& receive(BlockReader& disk);

 private:
  void receive_one(int socket);
  void answer(BlockReader& disk, int socket);
  void send_to(int socket, std::string_view message);
  void receive_exactly(int socket, std::span<char> buffer);
  void wait_for(int socket, short events);
  void await_answer(BlockReader& disk);
  [[noreturn]] void died();

  WorkerProgram program_;
  UniqueFd socket_;
  UniqueFd blocks_;  ///< where blocks are asked for apart
  Deadline limit_{std::chrono::seconds(0)};
  pid_t pid_ = -1;
  wire::Message message_;
  std::vector<std::byte> answer_;  ///< a header and the blocks
};

}  // namespace stillpoint
