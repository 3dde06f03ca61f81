// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/errors.hh"
#include "host/commands/grade.hh"
#include "host/guest/agent-client.hh"
#include "host/guest/domain.hh"
#include "host/guest/freeze-window.hh"

#include <memory>
#include <string>
#include <vector>

namespace stillpoint {

/// Calls it; returns what went wrong in the guest, or on the way to it.
template <typename Call>
[[nodiscard]] std::string fault_in(const Call& call) {
  try {
    call();
    return {};
  } catch (const QuiesceError& e) {
    return e.what();
  } catch (const Unreachable& e) {
    return e.what();
  }
}

/// Asks qemu-ga and our agent whether they answer; null, and the evidence says why, when one of them does not.
[[nodiscard]] std::unique_ptr<AgentClient> meet_agent(const Domain& domain, Evidence& evidence);

/// A line for each database that cannot be quiesced, with the reason.
[[nodiscard]] std::vector<std::string> unready_databases(const AgentClient::Prepared& prepared);

/// What a window that was thawed was like.
void record_window(const FrozenGuest& frozen, WindowRecord& window, Evidence& evidence);

/// The agent's report of this id into the evidence, and what it says of the window; or why there is none.
void fetch_report(AgentClient& agent, const std::string& id, WindowRecord& window, Evidence& evidence);

}  // namespace stillpoint
