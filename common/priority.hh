// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

namespace stillpoint {

/// While it lives, the calling thread, and those that it starts, go before ordinary processes: in the freeze window
/// everybody waits for it. Best effort: without the right to do so nothing changes. It ends in the thread that made it.
class RaisedPriority {
 public:
  RaisedPriority() noexcept;
  RaisedPriority(const RaisedPriority&) = delete;
  RaisedPriority& operator=(const RaisedPriority&) = delete;
  ~RaisedPriority();

 private:
  int before_;  ///< nice(2) value
};

}  // namespace stillpoint
