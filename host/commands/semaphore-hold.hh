// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <semaphore>

namespace stillpoint {

/// One of a semaphore's slots, for a scope.
class SemaphoreHold {
 public:
  explicit SemaphoreHold(std::counting_semaphore<>& semaphore) : semaphore_(semaphore) { semaphore_.acquire(); }
  SemaphoreHold(const SemaphoreHold&) = delete;
  SemaphoreHold& operator=(const SemaphoreHold&) = delete;
  ~SemaphoreHold() { semaphore_.release(); }

 private:
  std::counting_semaphore<>& semaphore_;
};

}  // namespace stillpoint
