// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/report-file.hh"

#include "common/file.hh"
#include "common/frame.hh"
#include "common/protocol.hh"

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

using namespace stillpoint;

namespace {

Report sample(std::size_t sequences) {
  Report report;
  report.id = random_id();
  report.quiesced = true;
  for (const char* name : {"small", "large"}) {
    DatabaseReport database;
    database.engine = "postgresql";
    database.instance = "15-main";
    database.database = name;
    database.exactness = Exactness::exact;
    report.databases.push_back(database);
  }
  report.databases[0].sequences = {{"public.one", 1, true}};
  for (std::size_t i = 0; i < sequences; ++i)
    report.databases[1].sequences.push_back({"public.sequence_" + std::to_string(i), 1, true});
  return report;
}

}  // namespace

TEST_CASE("a report that fits is left as it is") {
  const Report report = sample(10);
  CHECK(to_json(fitting(report)) == to_json(report));
}

TEST_CASE("a report that is too long for a message loses sequences, and says so") {
  const Report report = fitting(sample(100000));
  CHECK(report.databases[0].sequences.size() == 1);
  CHECK(report.databases[1].sequences.empty());
  REQUIRE(report.databases[1].not_covered.size() == 1);
  CHECK(report.databases[1].not_covered[0].count == 100000);
  Json answer = protocol::message(protocol::type::report);
  answer["report"] = to_json(report);
  CHECK(protocol::encode(answer).size() < max_control_bytes);
  CHECK(parse_report(to_json(report)).id == report.id);
}

TEST_CASE("long reasons are cut between characters") {
  Report report = sample(1);
  report.failure = std::string(4095, 'x') + "\xc3\xa9";
  report.databases[0].reason = std::string(4000, '\xff');
  report.databases[1].reason = "caf\xc3\xa9";
  const Report read = parse_report(parse_json(dump_json(to_json(fitting(report))), "a report"));
  CHECK(read.failure == std::string(4095, 'x'));
  CHECK(read.databases[0].reason.size() == 4095);
  CHECK(read.databases[1].reason == "caf\xc3\xa9");
}

TEST_CASE("a report is replaced as a whole, for root's eyes") {
  char directory[] = "/tmp/stillpoint-report-XXXXXX";
  REQUIRE(::mkdtemp(directory) != nullptr);
  const std::filesystem::path path = std::filesystem::path(directory) / "state" / "report.json";
  write_report(path, sample(1));
  const Report second = sample(2);
  write_report(path, second);
  CHECK(parse_report(parse_json(read_text(path, 1 << 20), "the report")).id == second.id);
  namespace fs = std::filesystem;
  CHECK(fs::status(path).permissions() == (fs::perms::owner_read | fs::perms::owner_write));
  CHECK(std::distance(fs::directory_iterator(path.parent_path()), fs::directory_iterator()) == 1);
  fs::remove_all(directory);
}
