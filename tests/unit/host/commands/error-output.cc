// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/error-output.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

TEST_CASE("an error is one line, its hint another") {
  CHECK(error_text(NotFound("there is no domain 'x'", "there are a, b"), "backup") ==
        "stillpoint: backup: there is no domain 'x'\n  there are a, b\n");
  CHECK(error_text(UsageError("a verb is missing"), "") == "stillpoint: a verb is missing\n");
  CHECK(error_text(std::runtime_error("bad\nluck"), "list") == "stillpoint: list: unexpected: bad\\x0aluck\n");
}
