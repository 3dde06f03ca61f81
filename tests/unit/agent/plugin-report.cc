// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/plugin-report.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

using namespace stillpoint;

namespace {

/// A document with one database of these fields.
std::string one(std::string_view fields) {
  return fmt::format(R"({{"databases":[{{{}}}]}})", fields);
}

std::vector<DatabaseReport> judged(std::string_view fields) {
  return plugin::parse_databases(one(fields), "toy", true);
}

/// What is wrong with it.
std::string complaint(std::string_view fields) {
  try {
    static_cast<void>(judged(fields));
  } catch (const ProtocolError& e) {
    return e.what();
  }
  return "nothing";
}

bool names(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a plug-in's engine is a name of its own") {
  CHECK(plugin::parse_probe(R"({"engine":"redis","more":1})") == "redis");
  for (const char* text : {"", "{", "[]", "{}", R"({"engine":1})", R"({"engine":""})", R"({"engine":".."})",
                           R"({"engine":"a/b"})", R"({"engine":"@x"})", R"({"engine":"a%20"})", R"({"engine":"mysql"})",
                           R"({"engine":"postgresql"})", "{\"engine\":\"\xff\"}"})
    CHECK_THROWS_AS(static_cast<void>(plugin::parse_probe(text)), ProtocolError);
  CHECK_THROWS_AS(static_cast<void>(plugin::parse_probe(std::string(100000, ' '))), ProtocolError);
  CHECK_THROWS_AS(static_cast<void>(plugin::parse_probe(std::string(10000, '['))), ProtocolError);
}

TEST_CASE("a database is read") {
  const auto databases =
      judged(R"("instance":"a-1","database":"x y","server_version":"7","exactness":"exact","mode":"pause","dump":true,)"
             R"("position":{"at":7},"not_covered":[{"kind":"cache","name":"n","count":3},{"kind":"k"}])");
  REQUIRE(databases.size() == 1);
  const DatabaseReport& database = databases[0];
  CHECK(database.engine == "toy");
  CHECK(database.instance == "a-1");
  CHECK(database.database == "x y");
  CHECK(database.server_version == "7");
  CHECK(database.exactness == Exactness::exact);
  CHECK(database.mode == "pause");
  CHECK(database.dump == "toy/a-1/x%20y");
  CHECK(database.position["at"] == 7);
  REQUIRE(database.not_covered.size() == 2);
  CHECK(database.not_covered[0].count == 3);
  CHECK(database.not_covered[1].count == 1);
}

TEST_CASE("what a database leaves out") {
  const DatabaseReport database = judged(R"("exactness":"exact")")[0];
  CHECK(database.instance == "default");
  CHECK(database.database == "");
  CHECK(database.dump == "");
  CHECK(judged(R"("exactness":"exact","dump":true)")[0].dump == "toy/default");
  // "@..." is the agent's own.
  CHECK(judged(R"("exactness":"exact","dump":true,"database":"@x")")[0].dump == "toy/default/%40x");
  CHECK(judged(R"("exactness":"failed","reason":"r","dump":true)")[0].dump == "");
  CHECK(plugin::parse_databases("", "toy", true).empty());
  CHECK(plugin::parse_databases("{}", "toy", true).empty());
  CHECK(plugin::parse_databases(one(R"("database":"x")"), "toy", false)[0].exactness == Exactness::failed);
}

TEST_CASE("a database that is not as it should be") {
  CHECK(names(complaint(""), "exactness"));
  CHECK(names(complaint(R"("exactness":"perfect")"), "none of"));
  CHECK(names(complaint(R"("exactness":"skewed")"), "reason"));
  CHECK(names(complaint(R"("exactness":"exact","reason":"but")"), "reason"));
  CHECK(names(complaint(R"("exactness":"exact","instance":"a/b")"), "instance"));
  CHECK(names(complaint(R"("exactness":"exact","dump":"yes")"), "dump"));
  CHECK(names(complaint(R"("exactness":"exact","position":[1])"), "position"));
  CHECK(names(complaint(fmt::format(R"("exactness":"exact","position":{{"a":"{}"}})", std::string(5000, 'x'))),
              "position"));
  CHECK(names(complaint(fmt::format(R"("exactness":"exact","position":{{"a":{}}})", std::string(5000, '9'))),
              "not JSON"));
  CHECK(names(complaint(fmt::format(R"("exactness":"exact","database":"{}")", std::string(2000, 'x'))), "database"));
  CHECK(names(complaint(R"("exactness":"exact","not_covered":[{"name":"n"}])"), "kind"));
  CHECK(names(complaint(R"("exactness":"exact","not_covered":[{"kind":"k","count":-1}])"), "count"));
  CHECK(names(complaint(R"("exactness":"exact"},{"exactness":"exact")"), "twice"));
  const auto databases =
      judged(fmt::format(R"("exactness":"exact","dump":true,"database":"{}")", std::string(300, 'x')));
  CHECK(databases[0].exactness == Exactness::failed);
  CHECK(names(databases[0].reason, "too long"));
}

TEST_CASE("a thaw can only make it worse") {
  auto databases = judged(R"("exactness":"exact","dump":true},{"database":"b","exactness":"skewed","reason":"first")");
  plugin::lower(databases, judged(R"("exactness":"skewed","reason":"late"},{"database":"b","exactness":"exact")"));
  CHECK(databases[0].exactness == Exactness::skewed);
  CHECK(databases[0].reason == "late");
  CHECK(databases[0].dump == "toy/default");
  CHECK(databases[1].reason == "first");
  plugin::lower(databases, judged(R"("database":"unknown","exactness":"failed","reason":"r")"));
  CHECK(databases.size() == 2);
  databases = judged(R"("exactness":"exact","dump":true)");
  plugin::lower(databases, judged(R"("exactness":"failed","reason":"gone")"));
  CHECK(databases[0].dump == "");
}

TEST_CASE("a reason that is too long is cut") {
  const auto databases =
      judged(fmt::format(R"("exactness":"skewed","reason":"{}")", std::string(plugin::max_reason + 1, 'x')));
  CHECK(databases[0].reason.size() == plugin::max_reason);
}
