// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/log.hh"
#include "host/commands/command.hh"
#include "host/commands/drill-text.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/commands/still-point-text.hh"
#include "host/commands/table.hh"
#include "host/repository/repository.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <map>
#include <memory>
#include <optional>

namespace stillpoint {

namespace {

using Align = Table::Align;

Json json_row(const Manifest& manifest, const std::optional<DrillRecord>& drill) {
  const Totals totals = totals_of(manifest);
  return {{"name", manifest.name},
          {"id", manifest.id},
          {"domain", manifest.domain},
          {"instant", format_time_precise(manifest.instant)},
          {"grade", to_string(manifest.grade)},
          {"complete", totals.complete},
          {"databases", totals.databases},
          {"databases_exact", totals.databases_exact},
          {"disks", manifest.disks.size()},
          {"disk_bytes", totals.disk_bytes},
          {"read", totals.read},
          {"changed", totals.changed},
          {"stored", totals.stored},
          {"window_us", manifest.window.total.count()},
          {"drill", drill ? drill_summary_json(*drill) : Json(nullptr)}};
}

std::vector<std::string> table_row(const Manifest& manifest, const std::optional<DrillRecord>& drill) {
  const Totals totals = totals_of(manifest);
  return {manifest.name,
          fmt::format("{}{}", to_string(manifest.grade), totals.complete ? "" : " (incomplete)"),
          totals.databases == 0 ? "-" : fmt::format("{}/{}", totals.databases_exact, totals.databases),
          format_size(totals.disk_bytes),
          format_size(totals.changed),
          format_size(totals.stored),
          manifest.window.total.count() == 0 ? "-" : format_duration(manifest.window.total),
          drill ? drill_summary(*drill) : "-"};
}

ExitCode list(const std::string& domain, const Invocation& invocation) {
  Repository repository = invocation.open(Repository::Mode::read);
  const std::vector<StillPointSummary> found = repository.list(domain);
  if (found.empty() && !domain.empty())
    throw NotFound(fmt::format("there is no still point of a domain '{}'", domain), "'stillpoint list' shows all");
  const std::map<std::string, std::string> drills = repository.drills();
  ExitCode code = ExitCode::success;
  Json rows = Json::array();
  Table table({{"NAME"},
               {"GRADE"},
               {"EXACT", Align::right},
               {"DISKS", Align::right},
               {"CHANGED", Align::right},
               {"STORED", Align::right},
               {"WINDOW", Align::right},
               {"DRILL"}});
  for (const StillPointSummary& summary : found) {
    if (invocation.stop.stop_requested()) throw Interrupted("stopped while listing");
    try {
      const Manifest manifest = repository.load(summary.name);
      const auto drilled = drills.find(manifest.name);
      const std::optional<DrillRecord> drill =
          drilled == drills.end() ? std::nullopt : read_drill(repository, manifest, drilled->second);
      if (invocation.json)
        rows.push_back(json_row(manifest, drill));
      else
        table.add(table_row(manifest, drill));
    } catch (const Error& e) {
      if (e.exit_code() != ExitCode::corruption && e.exit_code() != ExitCode::configuration) throw;
      // The others are still good, and the operator looks for one of them.
      log_error("{}: {}", printable(summary.name), printable(e.what()));
      code = ExitCode::corruption;
      if (invocation.json)
        rows.push_back({{"name", summary.name}, {"domain", summary.domain}, {"damaged", e.what()}});
      else
        table.add({summary.name, "damaged", "-", "-", "-", "-", "-", "-"});
    }
  }
  if (invocation.json)
    print_json(rows);
  else if (!table.empty())
    print_result(table.text());
  return code;
}

}  // namespace

RunVerb add_list(CLI::App& parser) {
  const auto domain = std::make_shared<std::string>();
  parser.add_option("DOMAIN", *domain, "only those of this domain");
  return [domain](const Invocation& invocation) { return list(*domain, invocation); };
}

}  // namespace stillpoint
