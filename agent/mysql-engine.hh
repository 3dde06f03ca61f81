// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/agent-config.hh"
#include "agent/discovery.hh"
#include "agent/engine.hh"
#include "agent/mysql-barrier.hh"
#include "agent/mysql-dump.hh"
#include "agent/mysql-relay.hh"
#include "agent/mysql-server.hh"
#include "agent/mysql-table-hold.hh"
#include "common/clock.hh"
#include "common/errors.hh"

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint::mysql {

/// One MariaDB or MySQL server.
class MySqlEngine : public Engine {
 public:
  MySqlEngine(const AgentConfig& config, Server server, BarrierKind barrier);
  ~MySqlEngine() override;

  [[nodiscard]] std::string_view engine() const override { return server_.engine(); }
  [[nodiscard]] std::string_view instance() const override { return server_.instance; }
  void prepare(bool for_dumps, const Deadline& deadline) override;
  [[nodiscard]] std::string cluster() const override { return cluster_; }
  void quiesce(const Deadline& deadline) override;
  void release(const Deadline& deadline) noexcept override;
  void begin_dumps() noexcept override;
  [[nodiscard]] std::vector<DatabaseReport> report() const override;
  [[nodiscard]] RunningDump start_dump(std::string_view name) override;
  [[nodiscard]] RunningCheck start_check(std::string_view name) override;
  void finish() noexcept override;
  void cancel() noexcept override;

 private:
  /// A dump, with the tool that waits at its gate.
  struct Dump {
    DumpScope scope;
    std::optional<Relay::LinkId> link;
    std::optional<RunningDump> running;  ///< until it is handed out
    DatabaseReport report;
    std::size_t pinned = 0;    ///< tables whose definitions cannot change before the dump has ended
    std::size_t unpinned = 0;  ///< tables beyond the bound
  };

  void connect(const Deadline& deadline);
  void plan_dumps(const Deadline& deadline);
  Dump& plan(DumpScope scope, const std::string& database, const std::string& name);
  void start_tool(Dump& dump);
  void warm_up(const Deadline& deadline);
  void wait_for_tools(const Deadline& deadline);
  [[nodiscard]] bool excluded(const std::string& database) const;
  void refresh_catalogue(const Deadline& deadline);
  void pin_tables();
  void hold_tables(const Deadline& deadline);
  [[nodiscard]] std::vector<Relay::LinkId> links_with_held_tables() const;
  void attest(std::chrono::microseconds acquired_in, const Deadline& deadline);
  std::chrono::microseconds take_barrier(const Deadline& deadline);
  void hold_or_go_on(const Deadline& deadline, const std::function<void()>& hold);
  [[nodiscard]] std::string why_not_held() const;
  void judge(Dump& dump);
  void see_synced(const Deadline& deadline);
  void wait_for_accounts(const Deadline& deadline);
  void judge_accounts(Dump& dump, const Deadline& deadline);
  void fail(Dump& dump, const std::string& reason);
  void drop_dumps() noexcept;
  [[nodiscard]] QuiesceError by_name(const std::exception& error) const;
  [[nodiscard]] std::vector<Relay::LinkId> gated_links() const;

  AgentConfig config_;
  Server server_;
  BarrierKind barrier_kind_;
  std::shared_ptr<Relay> relay_;  ///< shared with a cancel() in another thread
  std::mutex relay_mutex_;        ///< guards the pointer only
  std::unique_ptr<Session> session_;
  std::unique_ptr<Session> second_session_;
  std::unique_ptr<Barrier> barrier_;
  std::unique_ptr<TableHold> table_hold_;  ///< null when there is nothing to hold, or it was not to be had
  std::string cluster_;                    ///< of a Galera node
  Catalogue catalogue_;
  std::vector<Dump> dumps_;
  std::string accounts_;        ///< accounts_fingerprint() from before their dump began
  bool accounts_read_ = false;  ///< their dump ended before the barrier
  bool for_dumps_ = false;
  std::string not_held_;  ///< why the barrier does not stand, where that is allowed
};

/// discover_mysql() with a barrier other than the best one, for servers (and tests) that want it.
void discover_mysql(const AgentConfig& config, std::optional<BarrierKind> barrier, const Deadline& deadline,
                    Discovered& found);

}  // namespace stillpoint::mysql
