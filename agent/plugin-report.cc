// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/plugin-report.hh"

#include "agent/dump-name.hh"
#include "common/errors.hh"
#include "common/protocol.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

namespace stillpoint::plugin {

namespace {

constexpr JsonLimits limits{max_document, 8};
constexpr std::size_t max_databases = 64;
constexpr std::size_t max_not_covered = 256;
constexpr std::size_t max_name_part = 64;
constexpr std::size_t max_database = 1024;
constexpr std::size_t max_position = 4096;
constexpr std::array<std::string_view, 3> own_engines{"postgresql", "mariadb", "mysql"};

/// Text that is one part of a dump's name as it stands.
std::string name_part(const std::string& text, std::string_view field) {
  if (text.empty() || text.starts_with('@') || protocol::dump_name_part(text) != text)
    throw ProtocolError(fmt::format("field '{}' is not a name: letters, digits and ._+- only", field));
  return text;
}

bool same(const DatabaseReport& a, const DatabaseReport& b) {
  return a.instance == b.instance && a.database == b.database;
}

DatabaseReport parse_database(const Json& json, const std::string& engine, bool judged) {
  DatabaseReport database;
  database.engine = engine;
  database.instance = name_part(json_string_or(json, "instance", "default", max_name_part), "instance");
  database.database = json_string_or(json, "database", "", max_database);
  database.server_version = json_string_or(json, "server_version", "", max_name_part);
  database.exactness = judged ? parse_exactness(json_string(json, "exactness", max_name_part)) : Exactness::failed;
  database.reason = json_string_or(json, "reason", "", max_document).substr(0, max_reason);
  if (judged && (database.exactness == Exactness::exact) != database.reason.empty())
    throw ProtocolError("a database is exact or has a reason why it is not");
  database.mode = json_string_or(json, "mode", "", max_name_part);
  database.position = json_object(json, "position");
  if (dump_json(database.position).size() > max_position)
    throw ProtocolError(fmt::format("field 'position' is longer than {} bytes", max_position));
  for (const Json& n : json_array(json, "not_covered", max_not_covered))
    database.not_covered.push_back({json_string(n, "kind", max_name_part), json_string_or(n, "name", "", max_database),
                                    json_uint_or(n, "count", 1)});
  if (!json_bool_or(json, "dump", false) || database.exactness == Exactness::failed) return database;
  database.dump = fmt::format("{}/{}", engine, database.instance);
  if (!database.database.empty()) database.dump += "/" + dump_part(database.database);
  if (!protocol::is_dump_name(database.dump)) fail(database, "its name is too long for a dump");
  return database;
}

}  // namespace

std::string parse_probe(std::string_view text) {
  const Json document = parse_json(text, "what it says", limits);
  std::string engine = name_part(json_string(document, "engine", max_name_part), "engine");
  if (std::find(own_engines.begin(), own_engines.end(), engine) != own_engines.end())
    throw ProtocolError(fmt::format("the engine '{}' is the agent's own", engine));
  return engine;
}

std::vector<DatabaseReport> parse_databases(std::string_view text, const std::string& engine, bool judged) {
  std::vector<DatabaseReport> databases;
  if (text.empty()) return databases;
  const Json document = parse_json(text, "what it says", limits);
  for (const Json& json : json_array(document, "databases", max_databases)) {
    DatabaseReport database = parse_database(json, engine, judged);
    if (std::any_of(databases.begin(), databases.end(), [&](const DatabaseReport& d) { return same(d, database); }))
      throw ProtocolError(fmt::format("it names '{}' of '{}' twice", database.database, database.instance));
    databases.push_back(std::move(database));
  }
  return databases;
}

void lower(std::vector<DatabaseReport>& databases, const std::vector<DatabaseReport>& after_thaw) {
  for (DatabaseReport& database : databases)
    for (const DatabaseReport& after : after_thaw)
      if (same(database, after) && database.exactness == Exactness::exact && after.exactness != Exactness::exact) {
        database.exactness = after.exactness;
        database.reason = after.reason;
        if (database.exactness == Exactness::failed) database.dump.clear();
      }
}

void fail(DatabaseReport& database, const std::string& reason) {
  database.exactness = Exactness::failed;
  database.reason = reason;
  database.dump.clear();
}

}  // namespace stillpoint::plugin
