// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/postgresql-text.hh"

#include <map>
#include <set>
#include <span>
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

 private:
  std::map<Oid, std::set<Oid>> before_;  ///< what comes before a table
  Holdings last_;
};

}  // namespace stillpoint::postgresql
