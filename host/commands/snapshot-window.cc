// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/snapshot-window.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "host/commands/guest-window.hh"
#include "host/guest/thaw-guard.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;

// Together less than librbd asks before it gives the snapshot up (ten times, ten seconds each).
constexpr std::chrono::milliseconds guards_end_limit = 20s;
constexpr std::chrono::milliseconds databases_limit = 30s;

}  // namespace

SnapshotWindow::SnapshotWindow(const Domain& domain, Grade least, std::chrono::milliseconds most,
                               const std::stop_token& stop)
    : domain_(domain) {
  worth_.id = random_id();
  if (!wait_for_earlier_guards(domain_, Deadline(guards_end_limit)))
    log_warning("a process of an earlier window still tries to thaw {}", domain_.name());
  agent_ = meet_agent(domain_, evidence_);
  if (!evidence_.guest_agent_fault.empty())
    throw QuiesceError(fmt::format("qemu-ga does not answer: {}", evidence_.guest_agent_fault), "look at the guest");
  prepare(most / 2);
  require(least);
  if (stop.stop_requested()) throw Interrupted("stopped before anything was frozen");
  begun_ = SteadyClock::now();
  frozen_ = std::make_unique<FrozenGuest>(domain_, most / 2);
  if (const std::string fault = frozen_->why_not_frozen(); !fault.empty())
    throw QuiesceError(fmt::format("{} does not stay frozen: {}", domain_.name(), fault));
}

SnapshotWindow::~SnapshotWindow() = default;

void SnapshotWindow::prepare(std::chrono::milliseconds freeze_limit) {
  if (!agent_) return;
  evidence_.agent_fault = fault_in([&] {
    const AgentClient::Prepared prepared = agent_->prepare(worth_.id, Deadline(databases_limit), freeze_limit);
    for (const std::string& warning : prepared.warnings)
      log_warning("{}: {}", domain_.name(), warning);
    unready_ = unready_databases(prepared);
  });
  if (!evidence_.agent_fault.empty()) agent_.reset();
}

void SnapshotWindow::require(Grade least) const {
  const Judgement offered = offered_grade(evidence_);
  std::vector<std::string> reasons = offered.reasons;
  reasons.insert(reasons.end(), unready_.begin(), unready_.end());
  const Grade grade = unready_.empty() ? offered.grade : std::min(offered.grade, Grade::filesystem);
  if (grade < least)
    throw QuiesceError(fmt::format("a snapshot of {} would be of grade {}, {} is required: {}", domain_.name(),
                                   to_string(grade), to_string(least), fmt::join(reasons, "; ")));
}

WindowWorth SnapshotWindow::end() {
  evidence_.status_fault = frozen_->why_not_frozen();
  frozen_->thaw();
  record_window(*frozen_, worth_.window, evidence_);
  if (agent_) fetch_report(*agent_, worth_.id, worth_.window, evidence_);
  agent_.reset();
  worth_.judgement = judge(evidence_);
  return worth_;
}

}  // namespace stillpoint
