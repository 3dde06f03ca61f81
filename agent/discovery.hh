// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/agent-config.hh"
#include "agent/engine.hh"

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

struct Discovered {
  std::vector<std::unique_ptr<Engine>> engines;
  std::vector<DatabaseReport> unusable;  ///< servers that listen but cannot be used: nothing of theirs is quiesced
  std::vector<std::string> warnings;     ///< sockets that are there but do not answer, in words for the operator
};

/// Records a server that could not be used. While somebody listens on its socket the report must say so, or a still
/// point would be graded as if that server were not there; a socket that a dead one left is worth a warning only.
void add_unusable(Discovered& found, std::string engine, std::string instance, const std::string& socket,
                  const std::string& reason);

/// The same for one whose socket has no file that leads to it from here. Nothing is recorded for a person's server.
/// `process` has it open.
void add_unreachable(Discovered& found, std::string engine, std::string instance, const std::string& socket,
                     std::optional<pid_t> process, const std::string& account);

/// Finds the database servers that answer on unix sockets now, and asks the plug-ins, for the still point `id`. Never
/// throws for a server; within the deadline.
[[nodiscard]] Discovered discover(const AgentConfig& config, const std::string& id, const Deadline& deadline);

}  // namespace stillpoint
