// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/postgresql-text.hh"

#include <map>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace stillpoint::postgresql {

/// The order in which the applications of one database lock its tables, as far as it is known: locking in another order
/// deadlocks with them.
class LockOrder {
 public:
  /// Somebody was seen to lock `first` before `second`.
  void learn(Oid first, Oid second);

  /// From a deadlock of which `own_pid` was the victim: what the others hold and we waited for comes before what we
  /// held. Returns whether there was anything to learn.
  bool learn(std::span<const DeadlockEdge> deadlock, int own_pid);

  /// One look at who holds what: relations by the session and transaction that holds them. Two looks at the same
  /// transaction show what it has locked in between, and so after the rest.
  using Holdings = std::map<std::string, std::set<Oid>>;
  void observe(const Holdings& holdings);

  /// `tables` in an order that agrees with all that was learned; what contradicts itself (applications that lock in
  /// opposite orders) and what is unknown stays in the given order.
  [[nodiscard]] std::vector<Oid> arrange(std::span<const Oid> tables) const;

  /// Drops what concerns other tables than these: they are no more.
  void forget_all_but(std::span<const Oid> tables);

 private:
  std::map<Oid, std::set<Oid>> before_;  ///< what comes before a table
  Holdings last_;
};

/// What was learned at earlier still points, for as long as the agent runs: tonight's barrier need not deadlock again
/// to know what last night's did. For any thread.
class LearnedOrders {
 public:
  /// `cluster` tells clusters apart, also after a restart (its data directory).
  [[nodiscard]] LockOrder recall(const std::string& cluster, const std::string& database) const;
  void remember(const std::string& cluster, const std::string& database, LockOrder order);

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, LockOrder> orders_;
};

}  // namespace stillpoint::postgresql
