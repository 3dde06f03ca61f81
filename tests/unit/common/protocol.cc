// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/protocol.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

#include <string>

using namespace stillpoint;

TEST_CASE("a dump's name is safe as a path") {
  for (const char* good : {"postgresql/15-main/app", "mariadb/default/shop", "postgresql/15-main/globals", "a/b%2Fc"})
    CHECK(protocol::is_dump_name(good));
  for (const char* bad :
       {"", "app", "/etc/passwd", "a//b", "a/../b", "../a/b", "a/b/", "a/.", "a/b c", "a/b\n", "a/b/c/d/e"})
    CHECK_FALSE(protocol::is_dump_name(bad));
  CHECK_FALSE(protocol::is_dump_name("a/" + std::string(300, 'b')));
  CHECK(protocol::dump_name_part("..") == "%2E.");
  CHECK(protocol::dump_name_part("my db/x") == "my%20db%2Fx");
}

TEST_CASE("a message is an object with a type") {
  CHECK(json_string(protocol::parse_message(R"({"type":"hello"})"), "type") == "hello");
  for (const char* bad : {"", "[]", "1", "{}", R"({"type":1})", R"({"type":"0123456789012345678901234567890123"})"})
    CHECK_THROWS_AS(static_cast<void>(protocol::parse_message(bad)), ProtocolError);
}

TEST_CASE("the time limits stand in their order") {
  CHECK(protocol::barrier_limit < protocol::hook_limit);
  CHECK(protocol::hook_limit < protocol::guest_deadline);
  CHECK(protocol::guest_deadline < protocol::host_deadline);
}
