// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace stillpoint {

/// One piece of work, run once by some thread of a crew. run() must not throw.
class Job {
 public:
  virtual ~Job() = default;
  virtual void run() noexcept = 0;
};

/// Threads, one per core, that take jobs in the order they came. They start with the first job.
class Crew {
 public:
  Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;
  /// Finishes the jobs that are queued.
  ~Crew();

  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  void post(std::unique_ptr<Job> job);

  /// Calls work(0) ... work(count - 1) on the crew and on the calling thread; returns when all have ended. Rethrows the
  /// first exception; the numbers not begun by then are left out.
  void for_each(std::size_t count, const std::function<void(std::size_t)>& work);

 private:
  void serve();

  std::size_t size_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> queue_;
  bool ending_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace stillpoint
