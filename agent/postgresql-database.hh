// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/postgresql-lock-order.hh"
#include "agent/postgresql-session.hh"
#include "common/report.hh"

#include <memory>
#include <set>
#include <string>
#include <vector>

namespace stillpoint::postgresql {

/// A table that a barrier holds.
struct Table {
  Oid oid = 0;
  std::string name;  ///< qualified and quoted
  bool catalogue = false;
};

/// One database at a still point: two sessions and what is known of it.
struct Database {
  std::string name;
  DatabaseReport report;
  /// Holds the writers; its transaction ends with the barrier.
  std::unique_ptr<Session> locker;
  /// Keeps the database snapshot and pins the tables until the dumps are done. None when no dumps are wanted.
  std::unique_ptr<Session> holder;
  std::vector<Table> tables;
  std::vector<std::string> sequences;
  std::vector<std::string> unlogged;
  bool superuser = true;  ///< otherwise catalogues cannot be locked
  /// Catalogues that are compared instead: as the database snapshot shows them, and as they are at the release.
  std::vector<std::string> watched;
  /// Tables where a prepared transaction holds locks: waiting for it would be waiting for ever.
  std::set<Oid> out_of_reach;
  std::vector<NotCovered> prepared_transactions;
  LockOrder order;
  std::string snapshot;                ///< exported; empty until then
  std::vector<std::string> in_flight;  ///< transactions that could still change what no table lock covers
  bool held = false;                   ///< the locker holds all tables
  bool wants_hold = true;              ///< false once it was given up for this still point
  int deadlocks = 0;
  int timeouts = 0;

  /// Whether it takes part in the barrier at all.
  [[nodiscard]] bool usable() const noexcept { return locker && locker->usable() && (!holder || holder->usable()); }
  /// There will be no dump: says why, and closes the sessions.
  void fail(std::string reason);
  /// The dump will not show the barrier's instant; the first reason stays.
  void skew(std::string reason);

  /// Takes over the rows of relations_query. Returns whether there are tables that were not known.
  bool read_relations(const Rows& rows);
  /// Takes over the rows of prepared_transactions_query.
  void read_prepared_transactions(const Rows& rows);
  /// Names to lock, in the learned order: tables of applications, or the catalogues.
  [[nodiscard]] std::vector<std::string> names(bool catalogues) const;
  [[nodiscard]] std::vector<std::string> reachable_names() const;
};

}  // namespace stillpoint::postgresql
