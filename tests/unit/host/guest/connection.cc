// SPDX-License-Identifier: LGPL-2.1-or-later
// libvirt's own test driver: a real libvirt connection without a daemon.
#include "host/guest/connection.hh"

#include "common/errors.hh"
#include "host/guest/freeze-window.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

TEST_CASE("domains are found by name and by UUID") {
  Connection connection("test:///default");
  const Domain domain = connection.domain("test");
  CHECK(domain.name() == "test");
  CHECK(domain.running());
  CHECK(connection.domain(domain.uuid()).name() == "test");
  CHECK(domain.xml().find("<name>test</name>") != std::string::npos);
}

TEST_CASE("what is not there is named") {
  Connection connection("test:///default");
  try {
    static_cast<void>(connection.domain("web1"));
    FAIL("found");
  } catch (const NotFound& error) {
    CHECK(std::string(error.what()) == "libvirt at test:///default has no domain 'web1'");
    CHECK(error.hint() == "domains there: test");
  }
  CHECK_THROWS_AS(Connection("qemu+unix:///system?socket=/nonexistent/sock"), Unreachable);
  CHECK_THROWS_AS(Connection("nonsense://"), Unreachable);
}

TEST_CASE("a domain without qemu-ga says so, and is not frozen") {
  const Domain domain = Connection("test:///default").domain("test");
  CHECK_FALSE(domain.guest_agent_fault().empty());
  CHECK_THROWS_AS(FrozenGuest{domain}, Unreachable);
}
