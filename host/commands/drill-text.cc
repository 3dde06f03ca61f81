// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/drill-text.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "host/commands/format.hh"
#include "host/commands/table.hh"

#include <fmt/format.h>

namespace stillpoint {

namespace {

/// Of "2026-11-29T02:00:00Z".
constexpr std::size_t date_length = 10;

}  // namespace

std::optional<DrillRecord> read_drill(Repository& repository, const Manifest& manifest, const std::string& object) {
  try {
    DrillRecord record = repository.load_drill(object);
    if (record.still_point == manifest.id) return record;
    log_warning("{} is the drill of another still point: ignored", printable(object));
  } catch (const Error& error) {
    log_warning("{}: {}", printable(object), printable(error.what()));
  }
  return std::nullopt;
}

std::string drill_summary(const DrillRecord& record) {
  return fmt::format("{} {}", record.passed ? "passed" : "failed", format_time(record.at).substr(0, date_length));
}

Json drill_summary_json(const DrillRecord& record) {
  return {{"passed", record.passed}, {"at", format_time_precise(record.at)}, {"booted", record.booted}};
}

std::string describe(const DrillRecord& record) {
  std::string out = fmt::format("{}, {} at {}, took {}, by stillpoint {}\n", record.passed ? "passed" : "failed",
                                record.booted ? "booted" : "recovered without a guest", format_time(record.at),
                                format_duration(record.took), printable(record.program_version));
  Table table({{"LOOKED AT"}, {"NAME"}, {"RESULT"}, {"TOOK", Table::Align::right}, {"FOUND"}});
  for (const DrillStep& step : record.steps)
    table.add({std::string(to_string(step.kind)), step.name, std::string(to_string(step.outcome)),
               format_duration(step.took), step.detail});
  return out + (table.empty() ? "" : table.text(2));
}

}  // namespace stillpoint
