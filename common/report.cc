// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/report.hh"

#include "common/errors.hh"
#include "common/protocol.hh"

#include <fmt/format.h>

namespace stillpoint {

namespace {

constexpr std::uint64_t format_version = 1;
constexpr std::size_t max_name = 1024;
constexpr std::size_t max_reason = 4096;
constexpr std::uint64_t max_hook_ms = 24 * 3600 * 1000;
constexpr std::size_t max_databases = 4096;

WallTime time_field(const Json& json, std::string_view field) {
  const std::string text = json_string(json, field, 40);
  try {
    return parse_time(text);
  } catch (const UsageError&) {
    throw ProtocolError(fmt::format("field '{}' is not a time", field));
  }
}

Json to_json(const DatabaseReport& database) {
  Json sequences = Json::array();
  for (const SequenceValue& s : database.sequences)
    sequences.push_back({{"name", s.name}, {"last_value", s.last_value}, {"is_called", s.is_called}});
  Json not_covered = Json::array();
  for (const NotCovered& n : database.not_covered)
    not_covered.push_back({{"kind", n.kind}, {"name", n.name}, {"count", n.count}});
  Json json{{"engine", database.engine},
            {"instance", database.instance},
            {"database", database.database},
            {"server_version", database.server_version},
            {"dump", database.dump},
            {"exactness", to_string(database.exactness)},
            {"reason", database.reason},
            {"mode", database.mode},
            {"position", database.position},
            {"attempts", database.attempts},
            {"acquired_us", database.acquired_in.count()},
            {"sequences", std::move(sequences)},
            {"not_covered", std::move(not_covered)}};
  if (!database.data_directory.empty()) json["data_directory"] = database.data_directory;
  return json;
}

DatabaseReport parse_database(const Json& json) {
  DatabaseReport database;
  database.engine = json_string(json, "engine", 64);
  database.instance = json_string(json, "instance", max_name);
  database.database = json_string_or(json, "database", "", max_name);
  database.server_version = json_string_or(json, "server_version", "", max_name);
  database.data_directory = json_string_or(json, "data_directory", "", 4096);
  if (!database.data_directory.empty() && !database.data_directory.starts_with('/'))
    throw ProtocolError("a data directory's path is not absolute");
  database.dump = json_string_or(json, "dump", "", 255);
  if (!database.dump.empty() && !protocol::is_dump_name(database.dump))
    throw ProtocolError("the report names a dump in a way that is not allowed");
  database.exactness = parse_exactness(json_string(json, "exactness", 16));
  database.reason = json_string_or(json, "reason", "", max_reason);
  database.mode = json_string_or(json, "mode", "", 64);
  database.position = json_object(json, "position");
  database.attempts = json_uint_or(json, "attempts", 0, 1000000);
  database.acquired_in = std::chrono::microseconds(json_uint_or(json, "acquired_us", 0));
  for (const Json& s : json_array(json, "sequences")) {
    if (!s.contains("last_value") || !s["last_value"].is_number_integer())
      throw ProtocolError("a sequence has no whole number as its value");
    database.sequences.push_back(
        {json_string(s, "name", max_name), s["last_value"].get<std::int64_t>(), json_bool(s, "is_called")});
  }
  for (const Json& n : json_array(json, "not_covered"))
    database.not_covered.push_back(
        {json_string(n, "kind", 64), json_string_or(n, "name", "", max_name), json_uint_or(n, "count", 1)});
  return database;
}

}  // namespace

std::string_view to_string(Exactness exactness) {
  switch (exactness) {
    case Exactness::exact:
      return "exact";
    case Exactness::skewed:
      return "skewed";
    case Exactness::failed:
      return "failed";
  }
  return "failed";
}

Exactness parse_exactness(std::string_view text) {
  if (text == "exact") return Exactness::exact;
  if (text == "skewed") return Exactness::skewed;
  if (text == "failed") return Exactness::failed;
  throw ProtocolError(fmt::format("'{}' is none of exact, skewed, failed", text));
}

Json to_json(const Report& report) {
  Json hooks = Json::array();
  for (const SiteHookReport& h : report.site_hooks)
    hooks.push_back({{"name", h.name}, {"took_ms", h.took.count()}, {"failure", h.failure}});
  Json databases = Json::array();
  for (const DatabaseReport& d : report.databases)
    databases.push_back(to_json(d));
  Json json{{"format", format_version},
            {"id", report.id},
            {"agent_version", report.agent_version},
            {"hostname", report.hostname},
            {"path", report.path},
            {"prepared_at", format_time_precise(report.prepared_at)},
            {"barrier_begun_at", format_time_precise(report.barrier_begun_at)},
            {"barrier_at", format_time_precise(report.barrier_at)},
            {"quiesced", report.quiesced},
            {"failure", report.failure},
            {"site_hooks", std::move(hooks)},
            {"databases", std::move(databases)},
            {"watchdog_fired", report.watchdog_fired}};
  if (report.released_at) json["released_at"] = format_time_precise(*report.released_at);
  return json;
}

Report parse_report(const Json& json) {
  if (const std::uint64_t format = json_uint(json, "format"); format != format_version)
    throw ProtocolError(fmt::format("the report has format {}, this program knows {}", format, format_version));
  Report report;
  report.id = json_string(json, "id", 64);
  if (!is_id(report.id)) throw ProtocolError("the report's id is not an id");
  report.agent_version = json_string_or(json, "agent_version", "", 64);
  report.hostname = json_string_or(json, "hostname", "", 256);
  report.path = json_string_or(json, "path", "", 4096);
  if (!report.path.empty() && !report.path.starts_with('/')) throw ProtocolError("the report's path is not absolute");
  report.prepared_at = time_field(json, "prepared_at");
  report.barrier_begun_at = time_field(json, "barrier_begun_at");
  report.barrier_at = time_field(json, "barrier_at");
  report.quiesced = json_bool(json, "quiesced");
  report.failure = json_string_or(json, "failure", "", max_reason);
  for (const Json& h : json_array(json, "site_hooks", 1000))
    report.site_hooks.push_back({json_string(h, "name", max_name),
                                 std::chrono::milliseconds(json_uint_or(h, "took_ms", 0, max_hook_ms)),
                                 json_string_or(h, "failure", "", max_reason)});
  for (const Json& d : json_array(json, "databases", max_databases))
    report.databases.push_back(parse_database(d));
  report.watchdog_fired = json_bool_or(json, "watchdog_fired", false);
  if (json.contains("released_at")) report.released_at = time_field(json, "released_at");
  return report;
}

}  // namespace stillpoint
