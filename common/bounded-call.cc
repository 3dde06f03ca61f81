// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/bounded-call.hh"

#include "common/signal-mask.hh"

#include <thread>

namespace stillpoint {

void run_detached(std::packaged_task<void()> task) {
  const AllSignalsBlocked blocked;
  std::thread(std::move(task)).detach();
}

}  // namespace stillpoint
