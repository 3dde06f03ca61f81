// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql-lock-order.hh"

#include <doctest/doctest.h>

#include <vector>

using namespace stillpoint::postgresql;

namespace {
using Oids = std::vector<Oid>;
}

TEST_CASE("without knowledge the order stays") {
  CHECK(LockOrder().arrange(Oids{3, 1, 2}) == Oids{3, 1, 2});
  CHECK(LockOrder().arrange(Oids{}).empty());
}

TEST_CASE("a deadlock teaches that what we waited for comes before what we held") {
  LockOrder order;
  CHECK(order.learn(std::vector<DeadlockEdge>{{10, 2, 20}, {20, 1, 10}}, 10));
  CHECK(order.arrange(Oids{1, 2, 3}) == Oids{2, 1, 3});
}

TEST_CASE("a longer cycle teaches as well") {
  LockOrder order;
  // We (10) want 3 of 20, who waits for a row of 30, who waits for our 1.
  CHECK(order.learn(std::vector<DeadlockEdge>{{10, 3, 20}, {20, 0, 30}, {30, 1, 10}}, 10));
  CHECK(order.arrange(Oids{1, 2, 3}) == Oids{3, 1, 2});
}

TEST_CASE("a deadlock without us, or without relations, teaches nothing") {
  LockOrder order;
  CHECK_FALSE(order.learn(std::vector<DeadlockEdge>{{11, 2, 20}, {20, 1, 11}}, 10));
  CHECK_FALSE(order.learn(std::vector<DeadlockEdge>{{10, 2, 20}, {20, 0, 10}}, 10));
  CHECK_FALSE(order.learn(std::vector<DeadlockEdge>{}, 10));
  CHECK(order.arrange(Oids{1, 2}) == Oids{1, 2});
}

TEST_CASE("two looks at one transaction show what it locked later") {
  LockOrder order;
  order.observe({{"a", {5}}, {"b", {1}}});
  order.observe({{"a", {5, 1}}, {"c", {2, 3}}});
  CHECK(order.arrange(Oids{1, 2, 3, 5}) == Oids{5, 1, 2, 3});
}

TEST_CASE("what was learned is there the next time, but for tables that are gone") {
  LearnedOrders orders;
  LockOrder order;
  order.learn(5, 1);
  order.learn(9, 1);
  order.forget_all_but(Oids{1, 5});
  CHECK(order.arrange(Oids{1, 5, 9}) == Oids{5, 1, 9});
  orders.remember("/data", "app", order);
  CHECK(orders.recall("/data", "app").arrange(Oids{1, 5}) == Oids{5, 1});
  CHECK(orders.recall("/data", "other").arrange(Oids{1, 5}) == Oids{1, 5});
  CHECK(orders.recall("/other", "app").arrange(Oids{1, 5}) == Oids{1, 5});
}

TEST_CASE("chains are followed, contradictions do not hang") {
  LockOrder order;
  for (Oid table = 1; table < 5000; ++table)
    order.learn(table + 1, table);
  Oids tables;
  for (Oid table = 1; table <= 5000; ++table)
    tables.push_back(table);
  const Oids arranged = order.arrange(tables);
  REQUIRE(arranged.size() == 5000);
  CHECK(arranged.front() == 5000);
  CHECK(arranged.back() == 1);

  LockOrder circle;
  circle.learn(1, 2);
  circle.learn(2, 3);
  circle.learn(3, 1);
  CHECK(circle.arrange(Oids{1, 2, 3}).size() == 3);
  LockOrder changed;
  changed.learn(1, 2);
  changed.learn(2, 1);
  CHECK(changed.arrange(Oids{1, 2}) == Oids{2, 1});
}
