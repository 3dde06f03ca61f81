// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/manifest.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

#include <string>

using namespace stillpoint;

namespace {

Json document() {
  Manifest manifest;
  manifest.id = std::string(32, 'a');
  manifest.domain = "web1";
  manifest.name = "web1@2026-11-22T08:20:11Z";
  for (const auto kind : {StateRecord::Kind::nvram, StateRecord::Kind::tpm})
    manifest.state.push_back({.kind = kind,
                              .name = kind == StateRecord::Kind::nvram ? "nvram" : "tpm2-00.permall",
                              .source = "/var/lib/x",
                              .owner = "swtpm",
                              .map = {.root = {}, .size = 6095},
                              .stored = 17,
                              .failure = {}});
  return to_json(manifest);
}

}  // namespace

TEST_CASE("a domain's state is read as it was written") {
  const Manifest read = parse_manifest(document());
  REQUIRE(read.state.size() == 2);
  CHECK(read.state[0].kind == StateRecord::Kind::nvram);
  CHECK(read.state[1].kind == StateRecord::Kind::tpm);
  CHECK(read.state[1].name == "tpm2-00.permall");
  CHECK(read.state[1].owner == "swtpm");
  CHECK(read.state[1].map.size == 6095);
  CHECK(to_json(read) == document());
}

TEST_CASE("manifests had no state in the beginning") {
  Json json = document();
  json.erase("state");
  CHECK(parse_manifest(json).state.empty());
}

TEST_CASE("an RBD image's layout is read as it was written, and was not there in the beginning") {
  Manifest manifest = parse_manifest(document());
  const RbdLayout layout{.order = 20, .features = 13, .stripe_unit = 65536, .stripe_count = 4};
  DiskRecord& disk = manifest.disks.emplace_back();
  disk.target = "vda";
  disk.rbd = RbdBase{.cluster = "c", .image_id = "i", .snapshot = "s", .snapshot_id = 1};
  disk.rbd->layout = layout;
  Json json = to_json(manifest);
  CHECK(parse_manifest(json).disks.at(0).rbd->layout == layout);
  Json& rbd = json["disks"][0]["rbd"];
  rbd["layout"]["order"] = "20";
  CHECK_THROWS_AS(static_cast<void>(parse_manifest(json)), Corruption);
  rbd.erase("layout");
  CHECK(parse_manifest(json).disks.at(0).rbd->layout == RbdLayout());
}

TEST_CASE("a state that leads elsewhere or has no limit is none") {
  const auto refused = [](const char* field, const Json& value) {
    Json json = document();
    json["state"][0][field] = value;
    CAPTURE(field);
    CAPTURE(value.dump());
    CHECK_THROWS_AS(static_cast<void>(parse_manifest(json)), Corruption);
  };
  for (const char* name : {"", ".", "..", "../x", "a/b", ".hidden", "a b", "\xc3\xa9"})
    refused("name", name);
  refused("kind", "shadow");
  refused("map", Json{{"root", std::string(64, '0')}, {"size", max_state_bytes + 1}});
  Json json = document();
  for (std::size_t i = 0; i < max_state_files; ++i)
    json["state"].push_back(json["state"][0]);
  CHECK_THROWS_AS(static_cast<void>(parse_manifest(json)), Corruption);
}
