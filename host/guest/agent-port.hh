// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "host/guest/domain.hh"

namespace stillpoint {

/// The domain's virtio-serial port for the agent: the defined one, or one that is plugged in for the scope. A port that
/// runs but is not in the persistent definition was plugged in by a companion that died, and is taken over.
class AgentPort {
 public:
  /// Throws Unreachable when the port cannot be plugged in.
  AgentPort(const Domain& domain, const Deadline& deadline);
  AgentPort(const AgentPort&) = delete;
  AgentPort& operator=(const AgentPort&) = delete;
  /// Unplugs what was plugged in; bounded.
  ~AgentPort();

 private:
  void plug_in(const Deadline& deadline);

  const Domain domain_;
  bool plugged_in_ = false;
};

}  // namespace stillpoint
