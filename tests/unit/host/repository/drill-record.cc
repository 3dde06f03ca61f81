// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/drill-record.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "host/repository/append-only-store.hh"
#include "host/repository/document.hh"
#include "support.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <fstream>
#include <string>

using namespace stillpoint;
using namespace stillpoint::test;

namespace {

DrillRecord drill_of(const Manifest& manifest, std::string_view at, bool passed = true) {
  DrillRecord record;
  record.still_point = manifest.id;
  record.name = manifest.name;
  record.at = parse_time(at);
  record.passed = passed;
  record.took = std::chrono::microseconds(1234);
  record.program_version = "1";
  record.steps = {{DrillStep::Kind::guest, "web1-drill", DrillStep::Outcome::passed, "it answers", record.took},
                  {DrillStep::Kind::dump, "postgresql/15-main/app", DrillStep::Outcome::failed, "differs", record.took},
                  {DrillStep::Kind::file_system, "vda1", DrillStep::Outcome::skipped, "", record.took}};
  return record;
}

}  // namespace

TEST_CASE("a drill's record is read as it was written, and the newest counts") {
  const Sample sample;
  Repository repository(sample.root().native(), Repository::Mode::write);
  CHECK(repository.drills().empty());
  for (const char* at : {"2026-11-29T02:00:00Z", "2026-11-30T02:00:00.000001Z", "2026-11-28T02:00:00Z"})
    repository.record_drill(drill_of(sample.manifest, at, std::string_view(at).starts_with("2026-11-30")));
  const auto drills = repository.drills();
  REQUIRE(drills.size() == 1);
  CHECK(drills == repository.drills(sample.manifest.name));
  CHECK(repository.drills("web2@2026-11-22T08:20:11Z").empty());
  const DrillRecord read = repository.load_drill(drills.at(sample.manifest.name));
  CHECK(to_json(read) == to_json(drill_of(sample.manifest, "2026-11-30T02:00:00.000001Z")));
  CHECK(repository.verify({}, {}).problems.empty());
  repository.remove(sample.manifest.name);
  CHECK(files_below(sample.root() / "drills").empty());
}

TEST_CASE("prune deletes the drills of still points that are gone, and no other") {
  const Quiet quiet;
  const Sample sample;
  Repository repository(sample.root().native(), Repository::Mode::write);
  DrillRecord record = drill_of(sample.manifest, "2026-11-29T02:00:00Z");
  repository.record_drill(record);
  record.name = "gone@2026-11-22T08:20:11Z";
  repository.record_drill(record);
  std::ofstream(sample.root() / "drills" / "something-else") << "x";
  CHECK(repository.drills().size() == 2);
  ReclaimOptions options;
  options.note = [](std::string_view) {};
  repository.reclaim(options);
  CHECK(files_below(sample.root() / "drills").size() == 2);
  CHECK(repository.drills().contains(sample.manifest.name));
  CHECK_FALSE(repository.drills().contains(record.name));
}

TEST_CASE("a drill's record that is damaged, hostile or another one's is refused") {
  const Quiet quiet;
  const Sample sample;
  Repository repository(sample.root().native(), Repository::Mode::write);
  const DrillRecord record = drill_of(sample.manifest, "2026-11-29T02:00:00Z");
  const Json good = to_json(record);
  CHECK(to_json(parse_drill(good)) == good);
  const auto refused = [&](std::string_view field, const Json& value) {
    CAPTURE(field);
    Json json = good;
    json[std::string(field)] = value;
    CHECK_THROWS_AS(static_cast<void>(parse_drill(json)), Corruption);
  };
  refused("format", 2);
  refused("still_point", "../../etc");
  refused("name", std::string(5000, 'x'));
  refused("name", 5);
  refused("at", "tomorrow");
  refused("passed", "yes");
  refused("took_us", -1);
  refused("steps", Json::object());
  refused("steps", Json{Json::array()});
  for (const Json& step :
       {Json{{"kind", "bribe"}, {"name", "a"}, {"outcome", "passed"}},
        Json{{"kind", "dump"}, {"name", "a"}, {"outcome", "perhaps"}},
        Json{{"kind", "dump"}, {"name", std::string(2000, 'n')}, {"outcome", "passed"}},
        Json{{"kind", "dump"}, {"name", "a"}, {"outcome", "passed"}, {"detail", std::string(9000, 'd')}}})
    refused("steps", Json::array({step}));
  CHECK_THROWS_AS(static_cast<void>(parse_drill(Json::object())), Corruption);

  DrillRecord lengthy = record;
  lengthy.steps.front().detail = std::string(8191, 'd') + "\xC3\xA4";
  lengthy.steps.front().name = std::string(2000, 'n');
  const DrillRecord cut = parse_drill(to_json(lengthy));
  CHECK(cut.steps.front().detail == std::string(8191, 'd'));
  CHECK(cut.steps.front().name.size() == 1024);

  repository.record_drill(record);
  const std::string object = repository.drills().at(record.name);
  const std::string another = drill_object(record.name, parse_time("2026-12-01T00:00:00Z"));
  std::filesystem::copy(sample.root() / object, sample.root() / another);
  CHECK_THROWS_AS(static_cast<void>(repository.load_drill(another)), Corruption);
  flip(sample.root() / object, 100, std::byte{1});
  CHECK_THROWS_AS(static_cast<void>(repository.load_drill(object)), Corruption);
}

TEST_CASE("names of drills say what they say, or nothing") {
  const std::string name = "a b@2026-11-22T08:20:11Z";
  const WallTime at = parse_time("2026-11-29T02:00:00.5Z");
  const DrillObject named = parse_drill_object(drill_object(name, at));
  CHECK(named.still_point == name);
  CHECK(named.at == at);
  for (const char* object :
       {"", "drills", "drills/", "drills/_", "drills/web1/2026-11-22T08:20:11Z", "manifests/web1/2026-11-22T08:20:11Z",
        "drills/web1/2026-11-22T08:20:11Z_", "drills/web1/2026-11-22T08:20:11Z_never",
        "drills/web1/now_2026-11-29T02:00:00Z", "drills/2026-11-22T08:20:11Z_2026-11-29T02:00:00Z",
        "drills/a/../2026-11-22T08:20:11Z_2026-11-29T02:00:00Z"})
    CHECK_MESSAGE(parse_drill_object(object).still_point.empty(), object);
}

TEST_CASE("a writer that only adds may add drills of its own domains, and none of the future") {
  const Sample sample;
  const DrillRecord record = drill_of(sample.manifest, "2026-11-22T09:00:00Z");
  const std::string domain = sample.manifest.domain;
  AppendOnlyStore store(open_store(sample.root().native(), StoreAccess::write), {domain});
  const std::string object = drill_object(record.name, record.at);
  store.put(object, as_bytes(seal_document("drill", to_json(record))));
  CHECK_THROWS_AS(store.remove(object), ConfigError);
  for (const std::string& refused :
       {drill_object("other@2026-11-22T08:20:11Z", record.at), std::string("drills/anything"),
        drill_object(record.name, wall_now() + std::chrono::hours(24))})
    CHECK_THROWS_AS(static_cast<void>(store.writer(refused)), ConfigError);
}

TEST_CASE("a writer that only adds may say that still points have a state, and no other feature") {
  const Sample sample;
  AppendOnlyStore store(open_store(sample.root().native(), StoreAccess::write), {});
  store.put("features/ro_compat.state", {});
  for (const char* refused : {"features/ro_compat.leases", "features/incompat.state", "features/ro_compat.state/x"})
    CHECK_THROWS_AS(static_cast<void>(store.writer(refused)), ConfigError);
}
