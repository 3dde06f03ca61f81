// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/domain-state.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <string>

using namespace stillpoint;

namespace {

constexpr const char* uuid = "471ffad2-aca6-4792-9409-69ddef9e93ef";

StatePlaces places(const std::string& os, const std::string& devices, bool running = true) {
  return state_places(fmt::format("<domain><name>web1</name><uuid>{}</uuid><os>{}</os><devices>{}</devices></domain>",
                                  uuid, os, devices),
                      "/tpms", running);
}

std::string tpm(const std::string& backend) {
  return "<tpm model='tpm-crb'>" + backend + "</tpm>";
}

}  // namespace

TEST_CASE("a domain's state lies where libvirt says") {
  CHECK(places("<nvram template='/t.fd'>/n/web1.fd</nvram>", "").nvram == "/n/web1.fd");
  CHECK(places("<nvram type='file'><source file='/n/web1.fd'/></nvram>", "").nvram == "/n/web1.fd");
  CHECK(places("<nvram/>", "").nvram.empty());
  CHECK(places("", "").nvram.empty());
  CHECK(places("", tpm("<backend type='emulator' version='2.0'/>")).tpm == fmt::format("/tpms/{}/tpm2", uuid));
  CHECK(places("", tpm("<backend type='emulator' version='1.2'/>")).tpm == fmt::format("/tpms/{}/tpm1.2", uuid));
  CHECK(places("", tpm("<backend type='emulator'><source type='dir' path='/own'/></backend>")).tpm == "/own");
  CHECK(places("", "").left_out.empty());
}

TEST_CASE("what cannot be read is told") {
  const auto left_out = [](const StatePlaces& found) {
    return found.nvram.empty() && found.tpm.empty() && found.left_out.size() == 1;
  };
  CHECK(left_out(places("<nvram type='network'><source protocol='iscsi'/></nvram>", "")));
  CHECK(left_out(places("<nvram format='qcow2'>/n/web1.qcow2</nvram>", "")));
  CHECK(places("<nvram format='qcow2'>/n/web1.qcow2</nvram>", "", false).nvram == "/n/web1.qcow2");
  CHECK(left_out(places("", tpm("<backend type='passthrough'><device path='/dev/tpm0'/></backend>"))));
  CHECK(left_out(places("", tpm("<backend type='emulator'><source type='file' path='/own'/></backend>"))));
  CHECK_THROWS_AS(static_cast<void>(state_places("<domain><devices><tpm><backend type='emulator'/></tpm></devices>"
                                                 "<uuid>../../etc</uuid></domain>",
                                                 "/tpms", true)),
                  Error);
}

TEST_CASE("UUIDs become directories' names") {
  CHECK(is_uuid(uuid));
  CHECK(is_uuid(new_uuid()));
  CHECK(new_uuid() != new_uuid());
  for (const char* other : {"", "..", "471ffad2aca6479294090069ddef9e93efab", "471ffad2-aca6-4792-9409-69ddef9e93e/"})
    CHECK(!is_uuid(other));
}
