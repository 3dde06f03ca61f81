// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/priority.hh"

#include <sys/resource.h>

namespace stillpoint {

namespace {

/// About 25 times the share of an ordinary process (sched(7): each step is a factor of 1.25).
constexpr int raised = -15;
/// "The calling thread": the nice value is each thread's own on Linux.
constexpr id_t self = 0;

}  // namespace

RaisedPriority::RaisedPriority() noexcept : before_(::getpriority(PRIO_PROCESS, self)) {
  if (before_ > raised) static_cast<void>(::setpriority(PRIO_PROCESS, self, raised));
}

RaisedPriority::~RaisedPriority() {
  static_cast<void>(::setpriority(PRIO_PROCESS, self, before_));
}

}  // namespace stillpoint
