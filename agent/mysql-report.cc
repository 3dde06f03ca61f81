// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-report.hh"

#include <algorithm>

namespace stillpoint::mysql {
namespace {

constexpr std::size_t max_names = 100;

const char* kind_of(const Table& table) {
  if (table.sequence) return "sequence";
  return table.broken || table.engine.empty() ? "broken-table" : "non-transactional-table";
}

}  // namespace

void list_tables_without_transactions(const Catalogue& catalogue, const DumpScope& scope,
                                      std::vector<NotCovered>& not_covered) {
  std::uint64_t named = 0;
  std::uint64_t others = 0;
  for (const Table& table : catalogue.tables) {
    if ((table.transactional() || table.held) && !table.sequence) continue;
    if (std::find(scope.databases.begin(), scope.databases.end(), table.database) == scope.databases.end()) continue;
    if (named++ < max_names)
      not_covered.push_back({kind_of(table), quote_identifier(table.database) + '.' + quote_identifier(table.name), 1});
    else
      ++others;
  }
  if (others > 0) not_covered.push_back({"non-transactional-table", "", others});
}

}  // namespace stillpoint::mysql
