// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-server.hh"

#include "agent/mysql-barrier.hh"
#include "agent/mysql-report.hh"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace stillpoint;
using namespace stillpoint::mysql;

namespace {

Table table(const std::string& database, const std::string& name, const std::string& engine = "InnoDB") {
  return {database, name, engine, false, false, false};
}

Server server(bool mariadb, const std::string& version) {
  Server result;
  result.mariadb = mariadb;
  result.version = version;
  result.version_number = version_number(version);
  return result;
}

}  // namespace

TEST_CASE("versions become numbers that can be compared") {
  CHECK(version_number("10.11.19-MariaDB-0+deb12u1-log") == 101119);
  CHECK(version_number("8.0.36") == 80036);
  CHECK(version_number("5.5") == 50500);
  CHECK(version_number("8.4.0.1") == 80400);
  CHECK(version_number("") == 0);
  CHECK(version_number("unknown") == 0);
  CHECK(version_number("99999999999999999999.1.1") > 0);
}

TEST_CASE("stages are for MariaDB 10.4 and later") {
  CHECK(best_barrier(server(true, "10.11.19-MariaDB")) == BarrierKind::backup_stage);
  CHECK(best_barrier(server(true, "10.3.39-MariaDB")) == BarrierKind::read_lock);
  CHECK(best_barrier(server(false, "8.0.36")) == BarrierKind::read_lock);
}

TEST_CASE("identifiers are quoted") {
  CHECK(quote_identifier("a") == "`a`");
  CHECK(quote_identifier("a`; DROP TABLE b") == "`a``; DROP TABLE b`");
}

TEST_CASE("pins take the tables of one database, several a statement") {
  std::vector<Table> tables{table("a", "one"), table("a", "aria", "Aria"), table("a", "far", "FEDERATED"),
                            table("a", "isam", "MyISAM"), table("b", "two")};
  const std::vector<Pin> found = pins(tables, "a");
  REQUIRE(found.size() == 1);
  CHECK(found[0].statement == "DO (SELECT 1 FROM `a`.`one` LIMIT 0),(SELECT 1 FROM `a`.`isam` LIMIT 0)");
  CHECK(found[0].tables == 2);
  CHECK(found[0].first == 0);
  CHECK(found[0].last == 3);
  CHECK(pins(tables, "c").empty());

  tables[0].broken = tables[3].broken = true;
  CHECK(pins(tables, "a").empty());

  std::vector<Table> many;
  for (int i = 0; i < 120; ++i)
    many.push_back(table("a", std::to_string(i)));
  const std::vector<Pin> several = pins(many, "a");
  REQUIRE(several.size() == 3);
  CHECK(several[2].tables == 20);
  CHECK(several[2].first == 100);
}

TEST_CASE("what a snapshot does not show is named, up to a bound") {
  Catalogue catalogue;
  catalogue.tables = {table("a", "good"), table("a", "isam", "MyISAM"), table("a", "seq"), table("a", "lost", ""),
                      table("b", "isam", "MyISAM")};
  catalogue.tables[2].sequence = true;
  std::vector<NotCovered> found;
  list_tables_without_transactions(catalogue, {DumpScope::Kind::database, {"a"}}, found);
  REQUIRE(found.size() == 3);
  CHECK(found[0].kind == "non-transactional-table");
  CHECK(found[0].name == "`a`.`isam`");
  CHECK(found[1].kind == "sequence");
  CHECK(found[2].kind == "broken-table");

  catalogue.tables.clear();
  for (int i = 0; i < 250; ++i)
    catalogue.tables.push_back(table("a", std::to_string(i), "CSV"));
  found.clear();
  list_tables_without_transactions(catalogue, {DumpScope::Kind::database, {"a"}}, found);
  REQUIRE(found.size() == 101);
  CHECK(found[100].name.empty());
  CHECK(found[100].count == 150);
}
