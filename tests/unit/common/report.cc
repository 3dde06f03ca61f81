// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/report.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

namespace {

Report sample() {
  Report report;
  report.id = "0123456789abcdef0123456789abcdef";
  report.agent_version = "0.1.0";
  report.hostname = "web1";
  report.prepared_at = report.barrier_begun_at = report.barrier_at = parse_time("2026-11-22T08:20:11.5Z");
  report.quiesced = true;
  report.site_hooks = {{"10-app", std::chrono::milliseconds(12), ""}};
  DatabaseReport database;
  database.engine = "postgresql";
  database.instance = "15-main";
  database.database = "app";
  database.dump = "postgresql/15-main/app";
  database.exactness = Exactness::exact;
  database.position = {{"lsn", "0/15D68C8"}};
  database.sequences = {{"public.orders_id_seq", -4, true}};
  database.not_covered = {{"unlogged-table", "public.cache", 1}};
  report.databases = {database};
  return report;
}

}  // namespace

TEST_CASE("a report comes back as it was written") {
  const Json json = to_json(sample());
  CHECK(to_json(parse_report(parse_json(dump_json(json), "report"))) == json);
}

TEST_CASE("a report from a hostile guest is refused") {
  const auto refused = [](auto change) {
    Json json = to_json(sample());
    change(json);
    CHECK_THROWS_AS(static_cast<void>(parse_report(json)), ProtocolError);
  };
  refused([](Json& j) { j["format"] = 2; });
  refused([](Json& j) { j["id"] = "../../etc"; });
  refused([](Json& j) { j["barrier_at"] = "yesterday"; });
  refused([](Json& j) { j["databases"][0]["dump"] = "../../../etc/cron.d/x"; });
  refused([](Json& j) { j["databases"][0]["exactness"] = "perfect"; });
  refused([](Json& j) { j["databases"][0]["sequences"][0]["last_value"] = "1"; });
  refused([](Json& j) { j["databases"] = "none"; });
  refused([](Json& j) { j.erase("quiesced"); });
}
