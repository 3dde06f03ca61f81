// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/guest-window.hh"

#include "common/clock.hh"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace stillpoint {
namespace {

/// For the agent to notice its port and answer: a guest under load, or an emulated one, needs seconds.
constexpr std::chrono::seconds agent_answer_limit{10};
constexpr std::chrono::seconds report_limit{20};

}  // namespace

std::unique_ptr<AgentClient> meet_agent(const Domain& domain, Evidence& evidence) {
  evidence.guest_agent_fault = domain.guest_agent_fault();
  if (!evidence.guest_agent_fault.empty()) {
    evidence.agent_fault = "qemu-ga does not answer";
    return nullptr;
  }
  try {
    return std::make_unique<AgentClient>(domain, Deadline(agent_answer_limit));
  } catch (const Unreachable& e) {
    evidence.agent_fault = e.what();
    return nullptr;
  }
}

std::vector<std::string> unready_databases(const AgentClient::Prepared& prepared) {
  std::vector<std::string> lines;
  for (const PreparedDatabase& database : prepared.databases)
    if (!database.ready)
      lines.push_back(fmt::format("{} {} {} is not ready: {}", database.engine, database.instance, database.database,
                                  database.reason));
  return lines;
}

void record_window(const FrozenGuest& frozen, WindowRecord& window, Evidence& evidence) {
  window.total = frozen.window();
  window.freeze = frozen.freeze_took();
  window.thaw = frozen.thaw_took();
  window.frozen = evidence.frozen = frozen.frozen();
  window.thawed = evidence.thawed = frozen.thawed();
}

void fetch_report(AgentClient& agent, const std::string& id, WindowRecord& window, Evidence& evidence) {
  evidence.report_fault = fault_in([&] { evidence.report = agent.report(id, Deadline(report_limit)); });
  if (!evidence.report) return;
  const Report& report = *evidence.report;
  for (const SiteHookReport& hook : report.site_hooks)
    window.hooks += hook.took;
  window.barrier = std::max(report.barrier_at - report.barrier_begun_at, std::chrono::microseconds::zero());
}

}  // namespace stillpoint
