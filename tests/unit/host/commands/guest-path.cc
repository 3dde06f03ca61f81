// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/guest-path.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

TEST_CASE("paths are taken apart and put together") {
  CHECK(path_parts("//etc/./x/../y/") == std::deque<std::string>{"etc", "x", "..", "y"});
  CHECK(path_parts("/").empty());
  CHECK(joined_path({}) == "/");
  CHECK(joined_path({"etc", "hosts"}) == "/etc/hosts");
}

TEST_CASE("a mount point holds what lies below it, and no namesake") {
  CHECK(path_below("/", "/etc") == "etc");
  CHECK(path_below("/", "/") == "");
  CHECK(path_below("/var", "/var/log/x") == "log/x");
  CHECK(path_below("/var/", "/var") == "");
  CHECK(!path_below("/var", "/variant"));
  CHECK(!path_below("/var", "/etc"));
  CHECK(!path_below("", "/etc"));
}
