// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/snapshot-window.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "host/guest/agent-client.hh"
#include "host/guest/freeze-window.hh"
#include "host/guest/thaw-guard.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;

// Together less than librbd asks before it gives the snapshot up (ten times, ten seconds each).
constexpr std::chrono::milliseconds guards_end_limit = 20s;
constexpr std::chrono::milliseconds agent_meets_limit = 10s;
constexpr std::chrono::milliseconds databases_limit = 30s;
constexpr std::chrono::milliseconds report_comes_limit = 20s;

}  // namespace

SnapshotWindow::SnapshotWindow(const Domain& domain, Grade least, std::chrono::milliseconds most,
                               const std::stop_token& stop)
    : domain_(domain) {
  worth_.id = random_id();
  if (!wait_for_earlier_guards(domain_, Deadline(guards_end_limit)))
    log_warning("a process of an earlier window still tries to thaw {}", domain_.name());
  meet_agent();
  prepare(most / 2);
  require(least);
  if (stop.stop_requested()) throw Interrupted("stopped before anything was frozen");
  begun_ = SteadyClock::now();
  frozen_ = std::make_unique<FrozenGuest>(domain_, most / 2);
  if (const std::string fault = frozen_->why_not_frozen(); !fault.empty())
    throw QuiesceError(fmt::format("{} does not stay frozen: {}", domain_.name(), fault));
}

SnapshotWindow::~SnapshotWindow() = default;

void SnapshotWindow::meet_agent() {
  if (const std::string fault = domain_.guest_agent_fault(); !fault.empty())
    throw QuiesceError(fmt::format("qemu-ga does not answer: {}", fault), "look at the guest");
  try {
    agent_ = std::make_unique<AgentClient>(domain_, Deadline(agent_meets_limit));
  } catch (const Unreachable& e) {
    evidence_.agent_fault = e.what();
  }
}

void SnapshotWindow::prepare(std::chrono::milliseconds freeze_limit) {
  if (!agent_) return;
  try {
    const AgentClient::Prepared prepared = agent_->prepare(worth_.id, Deadline(databases_limit), freeze_limit);
    for (const std::string& warning : prepared.warnings)
      log_warning("{}: {}", domain_.name(), warning);
    for (const PreparedDatabase& database : prepared.databases)
      if (!database.ready)
        unready_.push_back(fmt::format("{} {} {} is not ready: {}", database.engine, database.instance,
                                       database.database, database.reason));
    return;
  } catch (const QuiesceError& e) {
    evidence_.agent_fault = e.what();
  } catch (const Unreachable& e) {
    evidence_.agent_fault = e.what();
  }
  agent_.reset();
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
  WindowRecord& window = worth_.window;
  window.total = frozen_->window();
  window.freeze = frozen_->freeze_took();
  window.thaw = frozen_->thaw_took();
  window.frozen = evidence_.frozen = frozen_->frozen();
  window.thawed = evidence_.thawed = frozen_->thawed();
  if (agent_) {
    try {
      evidence_.report = agent_->report(worth_.id, Deadline(report_comes_limit));
    } catch (const QuiesceError& e) {
      evidence_.report_fault = e.what();
    } catch (const Unreachable& e) {
      evidence_.report_fault = e.what();
    }
  }
  if (evidence_.report) {
    for (const SiteHookReport& hook : evidence_.report->site_hooks)
      window.hooks += hook.took;
    window.barrier =
        std::max(evidence_.report->barrier_at - evidence_.report->barrier_begun_at, std::chrono::microseconds::zero());
  }
  agent_.reset();
  worth_.judgement = judge(evidence_);
  return worth_;
}

}  // namespace stillpoint
