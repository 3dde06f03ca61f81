// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/agent-config.hh"
#include "agent/engine.hh"

#include <memory>
#include <string>
#include <vector>

namespace stillpoint {

struct Discovered {
  std::vector<std::unique_ptr<Engine>> engines;
  std::vector<std::string> warnings;  ///< sockets that are there but do not answer, in words for the operator
};

/// Finds the database servers that answer on unix sockets now. Never throws for a server; within the deadline.
[[nodiscard]] Discovered discover(const AgentConfig& config, const Deadline& deadline);

}  // namespace stillpoint
