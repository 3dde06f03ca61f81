// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "host/guest/domain.hh"

namespace stillpoint {

/// The domain's virtio-serial port for the agent: the defined one, or one that is plugged in for the scope.
class AgentPort {
 public:
  /// Throws Unreachable when the port cannot be plugged in.
  AgentPort(const Domain& domain, const Deadline& deadline);
  AgentPort(const AgentPort&) = delete;
  AgentPort& operator=(const AgentPort&) = delete;
  /// Unplugs what was plugged in; bounded.
  ~AgentPort();

  /// A port that runs but is not in the persistent definition was plugged in by another companion. Call it once the
  /// port could be opened: then that one has died, and the port is ours to unplug.
  void take_over() noexcept { plugged_in_ = plugged_in_ || left_behind_; }

 private:
  void plug_in(const Deadline& deadline);

  const Domain domain_;
  bool plugged_in_ = false;
  bool left_behind_ = false;
};

}  // namespace stillpoint
