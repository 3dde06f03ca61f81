// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql-database.hh"

#include <fmt/format.h>

#include <map>

namespace stillpoint::postgresql {

namespace {

std::vector<std::string> arranged_names(const Database& database, const std::set<Oid>& without) {
  std::vector<Oid> oids;
  std::map<Oid, std::string> names;
  for (const Table& table : database.tables) {
    if (table.catalogue || without.contains(table.oid)) continue;
    oids.push_back(table.oid);
    names.emplace(table.oid, table.name);
  }
  std::vector<std::string> result;
  result.reserve(oids.size());
  for (const Oid oid : database.order.arrange(oids))
    result.push_back(std::move(names.at(oid)));
  return result;
}

}  // namespace

void Database::fail(std::string reason) {
  report.exactness = Exactness::failed;
  report.reason = std::move(reason);
  report.dump.clear();
  held = false;
  snapshot.clear();
  locker.reset();
  holder.reset();
}

void Database::skew(std::string reason) {
  if (report.exactness == Exactness::failed) return;
  if (report.exactness != Exactness::skewed) report.reason = std::move(reason);
  report.exactness = Exactness::skewed;
}

bool Database::read_relations(const Rows& rows) {
  std::set<Oid> known;
  for (const Table& table : tables)
    if (!table.catalogue) known.insert(table.oid);
  bool more = false;
  tables.clear();
  sequences.clear();
  unlogged.clear();
  watched.clear();
  for (int row = 0; row < rows.size(); ++row) {
    const auto oid = static_cast<Oid>(rows.number(row, 0));
    std::string relation(rows.text(row, 1));
    if (rows.text(row, 2) == "S") {
      sequences.push_back(std::move(relation));
      continue;
    }
    const bool catalogue = rows.flag(row, 4);
    if (catalogue && !superuser) {
      // Whatever size it has: a database with large objects is not dumped without a superuser.
      if (relation != "pg_catalog.pg_largeobject") watched.push_back(std::move(relation));
      continue;
    }
    if (rows.text(row, 3) == "u") unlogged.push_back(relation);
    if (!catalogue && !known.contains(oid)) more = true;
    tables.push_back({oid, std::move(relation), catalogue});
  }
  return more;
}

void Database::read_prepared_transactions(const Rows& rows) {
  out_of_reach.clear();
  prepared_transactions.clear();
  std::set<std::string> seen;
  for (int row = 0; row < rows.size(); ++row) {
    std::string gid(rows.text(row, 0));
    if (!rows.is_null(row, 1)) out_of_reach.insert(static_cast<Oid>(rows.number(row, 1)));
    if (seen.insert(gid).second) prepared_transactions.push_back({"prepared-transaction", std::move(gid), 1});
  }
}

std::vector<std::string> Database::names(bool catalogues) const {
  if (!catalogues) return arranged_names(*this, {});
  std::vector<std::string> result;
  for (const Table& table : tables)
    if (table.catalogue) result.push_back(table.name);
  return result;
}

std::vector<std::string> Database::reachable_names() const {
  return arranged_names(*this, out_of_reach);
}

}  // namespace stillpoint::postgresql
