// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <exception>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vector>

namespace stillpoint {

/// Threads that succeed together: the first exception stops all, and wait() throws it. Leaving the scope without wait()
/// stops and joins them.
class TaskGroup {
 public:
  /// A stop of `outer` (the user's signal) stops the group too.
  explicit TaskGroup(const std::stop_token& outer);
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;
  ~TaskGroup();

  /// `task` ends soon after its token is stopped, best by throwing Interrupted.
  void run(std::function<void(const std::stop_token&)> task);

  /// Joins all; throws the first exception.
  void wait();

 private:
  void join() noexcept;

  std::stop_source stop_;
  std::stop_callback<std::function<void()>> outer_;
  std::mutex mutex_;
  std::exception_ptr first_;
  std::vector<std::jthread> threads_;
};

}  // namespace stillpoint
