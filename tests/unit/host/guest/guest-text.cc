// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/guest-text.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

TEST_CASE("text from a guest is shown without what a terminal obeys") {
  CHECK(shown("pl\xc3\xa4in \xe2\x82\xac") == "pl\xc3\xa4in \xe2\x82\xac");
  CHECK(shown("a\nb\tc\x1b[2J\x7f") == "a b c [2J ");
  CHECK(shown("\xc2\x9b"
              "2J") == "  2J");
  CHECK(shown(std::string(5000, 'x')).size() == 1000);
}
