// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql-lock-order.hh"

#include <algorithm>
#include <utility>

namespace stillpoint::postgresql {

void LockOrder::learn(Oid first, Oid second) {
  if (first == second) return;
  // The latest observation wins: a pair in both orders could never be arranged.
  if (const auto opposite = before_.find(first); opposite != before_.end()) opposite->second.erase(second);
  before_[second].insert(first);
}

bool LockOrder::learn(std::span<const DeadlockEdge> deadlock, int own_pid) {
  const auto own =
      std::find_if(deadlock.begin(), deadlock.end(), [&](const DeadlockEdge& e) { return e.waiting_pid == own_pid; });
  if (own == deadlock.end() || own->relation == 0) return false;
  // Who waits for us waits for a relation that we hold, and it (or whoever waits for it) holds the one we want.
  bool learned = false;
  for (const DeadlockEdge& other : deadlock) {
    if (other.blocking_pid != own_pid || other.relation == 0 || other.relation == own->relation) continue;
    learn(own->relation, other.relation);
    learned = true;
  }
  return learned;
}

void LockOrder::observe(const Holdings& holdings) {
  for (const auto& [holder, now] : holdings) {
    const auto earlier = last_.find(holder);
    if (earlier == last_.end()) continue;
    for (const Oid added : now) {
      if (earlier->second.contains(added)) continue;
      for (const Oid first : earlier->second)
        learn(first, added);
    }
  }
  last_ = holdings;
}

std::vector<Oid> LockOrder::arrange(std::span<const Oid> tables) const {
  const std::set<Oid> wanted(tables.begin(), tables.end());
  std::vector<Oid> arranged;
  std::set<Oid> visited;
  // Depth first, with a stack of our own: a chain may be as long as there are tables. A cycle is cut where it closes.
  struct Visit {
    Oid table;
    bool finished;
  };
  std::vector<Visit> stack;
  for (const Oid start : tables) {
    stack.push_back({start, false});
    while (!stack.empty()) {
      const Visit visit = stack.back();
      stack.pop_back();
      if (visit.finished) {
        arranged.push_back(visit.table);
        continue;
      }
      if (!visited.insert(visit.table).second) continue;
      stack.push_back({visit.table, true});
      if (const auto found = before_.find(visit.table); found != before_.end())
        for (const Oid earlier : found->second)
          if (wanted.contains(earlier) && !visited.contains(earlier)) stack.push_back({earlier, false});
    }
  }
  return arranged;
}

void LockOrder::forget_all_but(std::span<const Oid> tables) {
  const std::set<Oid> kept(tables.begin(), tables.end());
  const auto gone = [&](Oid table) { return !kept.contains(table); };
  std::erase_if(before_, [&](const auto& entry) { return gone(entry.first); });
  for (auto& entry : before_)
    std::erase_if(entry.second, gone);
  last_.clear();
}

LockOrder LearnedOrders::recall(const std::string& cluster, const std::string& database) const {
  const std::lock_guard lock(mutex_);
  const auto found = orders_.find({cluster, database});
  return found == orders_.end() ? LockOrder() : found->second;
}

void LearnedOrders::remember(const std::string& cluster, const std::string& database, LockOrder order) {
  const std::lock_guard lock(mutex_);
  orders_.insert_or_assign({cluster, database}, std::move(order));
}

}  // namespace stillpoint::postgresql
