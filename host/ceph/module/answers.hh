// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace stillpoint {

/// Requests that librados or librbd have, and their answers, which come in a thread of theirs. `Request` has a member
/// `Answers<Request>* answers`. One thread sends and takes.
template <typename Request>
class Answers {
 public:
  Answers() = default;
  Answers(const Answers&) = delete;
  Answers& operator=(const Answers&) = delete;
  ~Answers() { drain(); }

  /// `start(request)` hands it over, and returns a negative errno when there will be no answer; then the request ends
  /// here. Returns what it returned.
  template <typename Start>
  int send(std::unique_ptr<Request> request, const Start& start) {
    {
      const std::lock_guard lock(mutex_);
      answered_.reserve(sent_ + 1);  // nothing may throw where the answer comes
      ++sent_;
    }
    request->answers = this;
    const int result = start(*request);
    if (result < 0) {
      const std::lock_guard lock(mutex_);
      --sent_;
    } else {
      static_cast<void>(request.release());  // put() has it now
    }
    return result;
  }

  /// The answer is there.
  static void put(Request* request) noexcept {
    Answers& answers = *request->answers;
    const std::lock_guard lock(answers.mutex_);
    answers.answered_.push_back(request);
    // Under the lock: who waits may end all of this as soon as he has it.
    answers.came_.notify_one();
  }

  /// The one that was answered first; null when none is within `patience`.
  [[nodiscard]] std::unique_ptr<Request> next(std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    if (answered_.empty() && patience.count() > 0)
      came_.wait_for(lock, patience, [this] { return !answered_.empty(); });
    if (answered_.empty()) return nullptr;
    std::unique_ptr<Request> request(answered_.front());
    answered_.erase(answered_.begin());
    --sent_;
    return request;
  }

  /// Those sent and not yet taken.
  [[nodiscard]] std::size_t in_flight() const noexcept { return sent_; }

  /// Waits until nothing is on its way, bounded by the cluster's limit for each, and lets go of the answers.
  void drain() noexcept {
    std::unique_lock lock(mutex_);
    came_.wait(lock, [this] { return answered_.size() == sent_; });
    for (Request* request : answered_)
      delete request;
    answered_.clear();
    sent_ = 0;
  }

 private:
  std::mutex mutex_;
  std::condition_variable came_;
  std::vector<Request*> answered_;
  std::size_t sent_ = 0;  ///< not yet taken; the one thread's, changed under the lock
};

}  // namespace stillpoint
