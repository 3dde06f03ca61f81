// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "host/commands/snapshot-window.hh"
#include "host/guest/domain.hh"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

namespace stillpoint {

/// One freeze window for all images of a domain that are to stand still at about the same time. A thread of its own
/// freezes when the first asks, and thaws when the last is released, or after a limit.
class SharedWindow {
 public:
  struct Terms {
    Grade least = Grade::filesystem;
    bool best_effort = false;               ///< let snapshots be taken that nobody could freeze the guest for
    std::chrono::milliseconds most{10000};  ///< from the freeze call to the thaw
  };
  /// 0, or the errno (positive) that refuses the snapshot.
  using Answer = std::function<void(int error)>;
  /// What the snapshots of these images are worth, after the thaw. Called in the window's thread.
  using Tell = std::function<void(const std::vector<std::string>& images, const WindowWorth& worth)>;

  SharedWindow(Domain domain, const Terms& terms, Tell tell);
  SharedWindow(const SharedWindow&) = delete;
  SharedWindow& operator=(const SharedWindow&) = delete;
  ~SharedWindow();

  /// From any thread; returns at once. `answer` is called once, later, by the window's thread.
  void quiesce(const std::string& image, Answer answer);
  /// An image that holds no window is no error: its window may have been ended by its limit.
  void unquiesce(const std::string& image);
  /// Thaws at once, and refuses whoever asks from now on. Returns at once.
  void close();

 private:
  struct Request {
    std::string image;
    Answer answer;
  };
  using Lock = std::unique_lock<std::mutex>;

  void run(const std::stop_token& stop);
  void begin(Lock& lock);
  void join(Lock& lock);
  void end(Lock& lock);
  void answer_all(Lock& lock, int error);
  void tell_of(std::vector<std::string> images, const WindowWorth& worth) const noexcept;

  const Domain domain_;
  const Terms terms_;
  const Tell tell_;
  std::stop_source closed_;

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::uint64_t changes_ = 0;
  std::vector<Request> waiting_;   ///< not yet answered
  std::set<std::string> holders_;  ///< answered with 0 in this window, and not yet released
  std::set<std::string> images_;   ///< all that were answered with 0 in this window
  // Of the thread alone:
  std::unique_ptr<SnapshotWindow> window_;
  SteadyClock::time_point join_until_;
  SteadyClock::time_point thaw_at_;
  std::jthread thread_;
};

}  // namespace stillpoint
