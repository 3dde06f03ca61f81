// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/agent-config.hh"
#include "agent/engine.hh"
#include "agent/main-loop.hh"
#include "agent/overdue-thaw.hh"
#include "agent/watchdog.hh"
#include "common/clock.hh"
#include "common/json.hh"
#include "common/priority.hh"
#include "common/report.hh"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// The one still point that the agent works on: which databases it holds, and how.
///
///     idle -> preparing -> prepared -> quiescing -> quiesced -> releasing -> released
///       ^                     |           |                                     |
///       +----- finishing <----+-----------+-------------------------------------+
///
/// All calls come from the main loop's thread; what blocks runs in threads. Each request has a callback with a failure:
/// empty when it succeeded.
class StillPoint {
 public:
  using Done = std::function<void(const std::string& failure)>;

  enum class State { idle, preparing, prepared, quiescing, quiesced, releasing, released, finishing };

  explicit StillPoint(const AgentConfig& config);
  StillPoint(const StillPoint&) = delete;
  StillPoint& operator=(const StillPoint&) = delete;

  [[nodiscard]] State state() const noexcept { return state_; }
  [[nodiscard]] const std::string& id() const noexcept { return report_.id; }
  /// Whether file systems may be frozen: from the barrier to the thaw, or a minute after the deadline, whatever the
  /// host does meanwhile. Nothing is written then.
  [[nodiscard]] bool may_be_frozen() const noexcept { return may_be_frozen_; }

  /// Discovers databases and opens what the barrier needs. Only when idle. When no freeze comes within `freeze_within`,
  /// it finishes by itself. A freeze whose site hooks and barrier would take longer than `freeze_limit` is refused.
  void prepare(const std::string& id, bool for_dumps, std::chrono::milliseconds freeze_within,
               std::optional<std::chrono::milliseconds> freeze_limit, Done done);
  /// What prepare() has found, as docs/protocol.md has it.
  [[nodiscard]] Json prepared_databases() const;
  /// The clusters that these databases' servers belong to: no other node of them is to be held meanwhile.
  [[nodiscard]] std::vector<std::string> prepared_clusters() const;
  [[nodiscard]] const std::vector<std::string>& warnings() const noexcept { return warnings_; }

  /// Takes the barrier within `limit`; without a prepare, prepares first under an id of its own and without dumps.
  void quiesce(std::chrono::milliseconds limit, std::vector<SiteHookReport> site_hooks, Done done);
  /// The one who asked for the barrier is gone: undo it as soon as possible.
  void abandon_barrier();
  /// The file systems are thawed: releases the barrier. Idempotent: right in every state.
  void thawed(Done done);

  /// Complete once quiesced; empty before.
  [[nodiscard]] std::optional<Report> report() const;

  /// Starts that dump; only after the release. `done` gets the running tool, or a failure.
  void start_dump(const std::string& name,
                  std::function<void(std::shared_ptr<RunningDump> dump, const std::string& failure)> done);

  /// Starts the check of the database that this dump is of, as start_dump() does. `tool` is empty when none was
  /// started.
  void start_check(
      const std::string& name,
      std::function<void(std::shared_ptr<RunningDump> check, const std::string& tool, const std::string& failure)>
          done);

  /// Lets everything go; inside the window when that ends. Idempotent: right in every state.
  void finish(Done done);

 private:
  using Calls = std::vector<std::function<void()>>;
  [[nodiscard]] Calls for_each_engine(const std::function<void(Engine&)>& call) const;
  void call_engines(std::chrono::milliseconds limit, const std::function<void(Engine&)>& call,
                    std::function<void(const std::vector<std::string>& failures)> done);
  [[nodiscard]] std::string why_not_now() const;
  void discover_and_prepare(bool for_dumps, const Deadline& deadline, Done done);
  void prepare_engines(bool for_dumps, const Deadline& deadline, Done done);
  void sync_disks(Done done);
  void engines_prepared(const std::vector<std::string>& failures);
  void take_barrier(const Deadline& deadline, Done done);
  [[nodiscard]] std::vector<DatabaseReport> reported_databases() const;
  void attest(Done done);
  void barrier_stands(const Report& report, const Done& done);
  void reattest();
  void undo_barrier(const std::string& failure, Done done);
  void release(Done done);
  void close_window();
  void release_if_quiesced();
  /// The engine that reports a dump of that name; null when there is none, or it is not the time for it.
  [[nodiscard]] std::shared_ptr<Engine> engine_of(const std::string& name, std::string& failure) const;
  void start_in_turn(Calls calls, std::function<void(const std::vector<std::string>& failures)> done);
  void enter(State state);
  void settle(State state);
  void wake();
  void wait(std::function<void()> request) { waiting_.push_back(std::move(request)); }

  const AgentConfig& config_;
  State state_ = State::idle;
  Report report_;
  bool reported_ = false;
  bool own_id_ = false;     ///< nobody prepared: another program froze the guest
  bool abandoned_ = false;  ///< undo the barrier when it stands
  bool may_be_frozen_ = false;
  bool attesting_ = false;                               ///< a thread writes the report and arms the watchdog
  std::function<void(const std::string& why)> give_up_;  ///< undoes the barrier while the agent waits for that thread
  std::vector<std::shared_ptr<Engine>> engines_;
  std::vector<DatabaseReport> found_;     ///< as of prepare()
  std::vector<DatabaseReport> unusable_;  ///< servers that could not even be prepared
  std::vector<std::string> warnings_;
  std::unique_ptr<Watchdog> watchdog_;
  std::optional<RaisedPriority> raised_;  ///< from the barrier to its release
  std::optional<std::chrono::milliseconds> freeze_limit_;
  Source overdue_;                               ///< an engine does not return, or the disk does not take the report
  OverdueThaw overdue_thaw_;                     ///< no thaw came
  Source freeze_timer_;                          ///< no freeze came
  std::vector<std::function<void()>> starting_;  ///< dumps to be started, the first one is being
  std::vector<std::function<void()>> waiting_;   ///< requests that wait for the present one to end
};

[[nodiscard]] std::string_view to_string(StillPoint::State state);

}  // namespace stillpoint
