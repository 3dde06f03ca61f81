// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/discovery.hh"

#include "agent/mysql.hh"
#include "agent/postgresql.hh"

namespace stillpoint {

Discovered discover(const AgentConfig& config, const Deadline& deadline) {
  Discovered found;
  if (config.postgresql.enabled) discover_postgresql(config, deadline, found);
  if (config.mysql.enabled) discover_mysql(config, deadline, found);
  return found;
}

}  // namespace stillpoint
