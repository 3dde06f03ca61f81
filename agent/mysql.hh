// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/agent-config.hh"
#include "agent/discovery.hh"

namespace stillpoint {

/// Adds an engine for every MariaDB or MySQL server that answers on a unix socket now, and a warning for every one that
/// does not. Never throws for a server; within the deadline.
void discover_mysql(const AgentConfig& config, const Deadline& deadline, Discovered& found);

}  // namespace stillpoint
