// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql-text.hh"

#include "agent/dump-name.hh"
#include "common/protocol.hh"

#include <doctest/doctest.h>

using namespace stillpoint;
using namespace stillpoint::postgresql;

TEST_CASE("the detail of a deadlock tells who waits for which relation") {
  const auto edges = parse_deadlock(
      "Process 3184 waits for ShareLock on relation 16390 of database 5; blocked by process 3180.\n"
      "Process 3180 waits for RowExclusiveLock on relation 16385 of database 5; blocked by process 3184.");
  REQUIRE(edges.size() == 2);
  CHECK(edges[0] == DeadlockEdge{3184, 16390, 3180});
  CHECK(edges[1] == DeadlockEdge{3180, 16385, 3184});
}

TEST_CASE("a deadlock over something else than a relation has no relation") {
  const auto edges = parse_deadlock(
      "Process 11 waits for ShareLock on transaction 770; blocked by process 12.\n"
      "Process 12 waits for ExclusiveLock on tuple (0,3) of relation 16385 of database 5; blocked by process 13.\n"
      "Process 13 waits for ExclusiveLock on advisory lock [5,0,7,1]; blocked by process 11.");
  REQUIRE(edges.size() == 3);
  for (const DeadlockEdge& edge : edges)
    CHECK(edge.relation == 0);
  CHECK(edges[1].blocking_pid == 13);
}

TEST_CASE("text that is no deadlock is skipped") {
  for (const char* text : {"", "\n\n", "Process", "1 2", "Process 99999999999 waits for 1 of 2 by 3",
                           "999999999999999999999999999999 99999999999999999999999 9999999999999999999999999999 1"})
    CHECK(parse_deadlock(text).empty());
}

TEST_CASE("a connection string's value cannot be taken for more") {
  CHECK(conninfo_value("app") == "'app'");
  CHECK(conninfo_value("it's") == R"('it\'s')");
  CHECK(conninfo_value(R"(a\' host=evil)") == R"('a\\\' host=evil')");
  CHECK(conninfo_value("") == "''");
}

TEST_CASE("an instance is named as Debian names clusters") {
  CHECK(instance_name("15/main", "/srv/pg", "5432") == "15-main");
  CHECK(instance_name("", "/var/lib/postgresql/9.6/old/", "5433") == "9.6-old");
  CHECK(instance_name("", "/srv/15/main", "5433") == "port-5433");
  CHECK(instance_name("billing", "/srv/pg", "5432") == "billing");
  CHECK(instance_name("a b", "", "5432") == "a%20b");
  CHECK(instance_name("../..", "", "5432") == "port-5432");
  CHECK(instance_name("15/..", "", "5432") == "15-%2E.");
  CHECK(protocol::is_dump_name("postgresql/" + instance_name("15/..", "", "1") + "/app"));
}

TEST_CASE("no database's dump can be named as the globals") {
  CHECK(dump_part("app") == "app");
  CHECK(dump_part("@globals") == "%40globals");
  CHECK(dump_part("%40globals") == "%2540globals");
  CHECK(dump_part("a@b") == "a@b");
  CHECK(dump_part("naïve \"db\"/x") == "na%C3%AFve%20%22db%22%2Fx");
  CHECK(protocol::is_dump_name("postgresql/15-main/" + std::string(globals_part)));
}

TEST_CASE("versions and ports") {
  CHECK(major_version(150018) == "15");
  CHECK(major_version(90624) == "9.6");
  CHECK(socket_port(".s.PGSQL.5432") == "5432");
  for (const char* bad : {"", ".s.PGSQL.", ".s.PGSQL.5432.lock", ".s.PGSQL.123456", "s.PGSQL.1", ".s.PGSQL.54a"})
    CHECK(socket_port(bad).empty());
}

TEST_CASE("clusters of one name are told apart") {
  std::set<std::string> taken;
  CHECK(distinct_name("15-main", "5432", taken) == "15-main");
  CHECK(distinct_name("15-main", "5433", taken) == "15-main-port-5433");
  CHECK(distinct_name("15-main", "5433", taken) == "15-main-port-5433-2");
  CHECK(distinct_name("15-main", "5433", taken) == "15-main-port-5433-3");
}
