// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/agent-config.hh"
#include "agent/engine.hh"
#include "agent/postgresql-barrier.hh"
#include "agent/postgresql-database.hh"
#include "agent/postgresql-session.hh"
#include "agent/postgresql-standby.hh"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint::postgresql {

/// One PostgreSQL cluster.
///
/// Dump names: "postgresql/<instance>/<database>" and "postgresql/<instance>/@globals" (postgresql-text.hh).
/// After release() a database may say `skewed` that said `exact` in the barrier: only then is it known whether a
/// transaction that no table lock covers (schema changes, large objects) has committed meanwhile, or a standby has
/// received more.
class ClusterEngine final : public Engine {
 public:
  ClusterEngine(const AgentConfig& config, Server server, std::string instance);

  [[nodiscard]] std::string_view engine() const override { return "postgresql"; }
  [[nodiscard]] std::string_view instance() const override { return instance_; }
  void prepare(bool for_dumps, const Deadline& deadline) override;
  void quiesce(const Deadline& deadline) override;
  void release(const Deadline& deadline) noexcept override;
  void begin_dumps() noexcept override;
  [[nodiscard]] std::vector<DatabaseReport> report() const override;
  [[nodiscard]] RunningDump start_dump(std::string_view name) override;
  [[nodiscard]] RunningCheck start_check(std::string_view name) override;
  void finish() noexcept override;
  void cancel() noexcept override;

 private:
  [[nodiscard]] DatabaseReport blank_report(const std::string& database) const;
  void read_cluster_facts(const Deadline& deadline);
  void checkpoint_within(std::chrono::milliseconds limit, const Deadline& deadline);
  [[nodiscard]] bool excluded(const std::string& database) const;
  Database& add_database(const std::string& name);
  void open_database(Database& database, const Deadline& deadline);
  void learn_lock_order(const Deadline& deadline);
  void collect_globals(RunningDump dump, const Deadline& deadline);
  void read_prepared_transactions(const Deadline& deadline);
  void pause_replay(const Deadline& deadline);
  void judge_standby(const Deadline& deadline);
  void open_snapshots(const Deadline& deadline);
  bool checkpoint_answered(const Answer& answer, const Deadline& deadline);
  void read_sequences(bool exact, const Deadline& deadline);
  void find_new_databases(const Deadline& deadline);
  void prove_globals(const Deadline& deadline);
  void attest();
  void refuse_what_is_not_held() const;
  void remember_lock_orders() noexcept;

  const AgentConfig config_;
  const Server server_;
  const std::string instance_;
  Cancellation cancellation_;

  std::unique_ptr<Session> session_;  ///< for what concerns the whole cluster
  std::string data_directory_;
  bool superuser_ = true;
  int version_ = 0;
  std::string version_text_;
  bool for_dumps_ = false;
  bool quiesced_ = false;
  BarrierOptions options_;
  std::unique_ptr<Session> waker_;     ///< of a standby that may be paused, until it is
  std::optional<ReplayPause> replay_;  ///< ends before session_
  std::string not_paused_;             ///< why a standby is not
  std::vector<Database> databases_;
  DatabaseReport globals_report_;
  std::string globals_fingerprint_;
  std::optional<std::string> globals_;  ///< the dump, taken before the barrier
  std::string globals_problem_;         ///< why there is none
  std::map<std::string, RunningDump, std::less<>> early_dumps_;
};

}  // namespace stillpoint::postgresql
