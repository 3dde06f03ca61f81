// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/listening-sockets.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

TEST_CASE("those that listen are read out of the kernel's table") {
  const auto sockets = parse_listening_sockets(
      "Num       RefCount Protocol Flags    Type St Inode Path\n"
      "0000000000000000: 00000002 00000000 00010000 0001 01 17531 /run/my sql/mysqld.sock\n"
      "0000000000000000: 00000003 00000000 00000000 0001 03 17532 /run/connected\n"
      "0000000000000000: 00000002 00000000 00010000 0005 01 17533 /run/packets\n"
      "0000000000000000: 00000002 00000000 00010000 0001 01  1534 @abstract\n"
      "0000000000000000: 00000002 00000000 00010000 0001 01 17535\n"
      "0000000000000000: 00000002 00000000 00010000 0001 01   536 .s.PGSQL.1\n"
      "garbage");
  CHECK(sockets == std::vector<ListeningSocket>{{"/run/my sql/mysqld.sock", 17531}, {".s.PGSQL.1", 536}});
}

TEST_CASE("people run no servers of the system") {
  CHECK(may_run_servers(0, "postgres"));
  CHECK(may_run_servers(999, "postgres"));
  CHECK(!may_run_servers(54321, "postgres"));
  CHECK(!may_run_servers(65534, "no such account"));
}
