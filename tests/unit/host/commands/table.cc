// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/table.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

TEST_CASE("columns are aligned by what is seen") {
  Table table({{"NAME"}, {"SIZE", Table::Align::right}, {"NOTE"}});
  CHECK(table.empty());
  table.add({"é", "1 B", "x"});
  table.add({"web1", "10 MB", ""});
  CHECK(table.text(1) ==
        " NAME   SIZE  NOTE\n"
        " é       1 B  x\n"
        " web1  10 MB\n");
  CHECK_THROWS(table.add({"too few"}));
}
