// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/mysql-relay.hh"
#include "agent/mysql-server.hh"
#include "agent/mysql-session.hh"
#include "common/clock.hh"

#include <memory>
#include <thread>
#include <vector>

namespace stillpoint::mysql {

/// Keeps tables without transactions as they were at the barrier until their dumps have been read: a read lock on
/// them, in a session of its own, outlasts the barrier. Who writes to these tables waits, all others go on.
class TableHold {
 public:
  /// Connects through `relay`. Throws SessionError.
  TableHold(std::shared_ptr<Relay> relay, const Server& server, const Deadline& deadline);
  TableHold(const TableHold&) = delete;
  TableHold& operator=(const TableHold&) = delete;
  /// Lets the tables go.
  ~TableHold();

  /// Locks all of them or none, and brings them to disk. Before the barrier: writers that wait for that keep their
  /// tables from being locked. Waits a second at most, and leaves at least half of the time. Throws SessionError.
  void lock(const std::vector<const Table*>& tables, const Deadline& deadline);

  /// Lets the tables go by itself when none of these dumps' links, whose snapshots are open, reads any more. A lock
  /// that is lost before ends the dumps: they fail rather than hold what was written later.
  void keep_for(std::vector<Relay::LinkId> links);

 private:
  void watch(const std::stop_token& stop, const std::vector<Relay::LinkId>& links);

  std::shared_ptr<Relay> relay_;
  Session session_;
  std::jthread watcher_;  // last: it ends before what it uses
};

}  // namespace stillpoint::mysql
