// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/task-group.hh"

#include <utility>

namespace stillpoint {

TaskGroup::TaskGroup(const std::stop_token& outer) : outer_(outer, [this] { stop_.request_stop(); }) {}

TaskGroup::~TaskGroup() {
  stop_.request_stop();
  join();
}

void TaskGroup::run(std::function<void(const std::stop_token&)> task) {
  threads_.emplace_back([this, task = std::move(task)] {
    try {
      task(stop_.get_token());
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!first_) first_ = std::current_exception();
      stop_.request_stop();
    }
  });
}

void TaskGroup::wait() {
  join();
  if (first_) std::rethrow_exception(std::exchange(first_, nullptr));
}

void TaskGroup::join() noexcept {
  for (std::jthread& thread : threads_)
    if (thread.joinable()) thread.join();
  threads_.clear();
}

}  // namespace stillpoint
