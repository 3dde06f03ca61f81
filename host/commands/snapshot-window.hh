// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "host/commands/grade.hh"
#include "host/guest/domain.hh"

#include <chrono>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

namespace stillpoint {

class AgentClient;
class FrozenGuest;

/// What a freeze window was worth to the snapshots that were taken in it.
struct WindowWorth {
  std::string id{};  ///< the report's in the guest
  Judgement judgement{};
  WindowRecord window{};
};

/// A freeze window in which somebody else takes snapshots. Leaving the scope thaws.
class SnapshotWindow {
 public:
  /// Prepares the databases, where an agent answers, and freezes: what is of a lower grade than `least` is refused. The
  /// freeze itself has half of `most`. Throws QuiesceError, Unreachable, Locked (a backup is at work), Interrupted,
  /// with the guest thawed.
  SnapshotWindow(const Domain& domain, Grade least, std::chrono::milliseconds most, const std::stop_token& stop);
  SnapshotWindow(const SnapshotWindow&) = delete;
  SnapshotWindow& operator=(const SnapshotWindow&) = delete;
  ~SnapshotWindow();

  /// The freeze call.
  [[nodiscard]] SteadyClock::time_point begun() const noexcept { return begun_; }
  /// Thaws, asks the agent for its report, and judges. Throws QuiesceError, CaptureError.
  [[nodiscard]] WindowWorth end();

 private:
  void prepare(std::chrono::milliseconds freeze_limit);
  void require(Grade least) const;

  Domain domain_;
  WindowWorth worth_;
  Evidence evidence_;
  std::vector<std::string> unready_;  ///< databases that cannot be quiesced, and why
  SteadyClock::time_point begun_;
  std::unique_ptr<AgentClient> agent_;
  std::unique_ptr<FrozenGuest> frozen_;  ///< ends first
};

}  // namespace stillpoint
