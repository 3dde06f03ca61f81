// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/drill-record.hh"

#include "common/errors.hh"
#include "host/repository/still-point-name.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace stillpoint {

namespace {

constexpr std::uint64_t drill_format = 1;
constexpr std::size_t most_steps = 100000;
constexpr std::size_t longest_step_name = 1024;
constexpr std::size_t longest_detail = 8192;
constexpr std::string_view drills_directory = "drills/";

constexpr std::array kinds_of_steps{
    std::pair{DrillStep::Kind::disk, "disk"},   std::pair{DrillStep::Kind::file_system, "file-system"},
    std::pair{DrillStep::Kind::guest, "guest"}, std::pair{DrillStep::Kind::database, "database"},
    std::pair{DrillStep::Kind::dump, "dump"},   std::pair{DrillStep::Kind::check, "check"}};
constexpr std::array outcomes_of_steps{std::pair{DrillStep::Outcome::passed, "passed"},
                                       std::pair{DrillStep::Outcome::failed, "failed"},
                                       std::pair{DrillStep::Outcome::skipped, "skipped"}};

template <typename Words>
std::string_view word_of(const Words& words, decltype(words[0].first) value) {
  return std::ranges::find(words, value, [](const auto& pair) { return pair.first; })->second;
}

template <typename Words>
auto meaning_of(const Words& words, const Json& json, std::string_view field) {
  const std::string text = json_string(json, field, 32);
  for (const auto& [value, word] : words)
    if (text == word) return value;
  throw ProtocolError(fmt::format("field '{}' has a word that is not known", field));
}

DrillStep parse_step(const Json& json) {
  DrillStep step;
  step.kind = meaning_of(kinds_of_steps, json, "kind");
  step.name = json_string(json, "name", longest_step_name);
  step.outcome = meaning_of(outcomes_of_steps, json, "outcome");
  step.detail = json_string_or(json, "detail", "", longest_detail);
  step.took = std::chrono::microseconds(json_uint_or(json, "took_us", 0));
  return step;
}

DrillRecord parse_record(const Json& json) {
  if (const std::uint64_t format = json_uint(json, "format"); format != drill_format)
    throw ProtocolError(fmt::format("it has format {}, this program knows {}", format, drill_format));
  DrillRecord record;
  record.still_point = json_string(json, "still_point", 64);
  if (!is_id(record.still_point)) throw ProtocolError("field 'still_point' is not an id");
  record.name = json_string(json, "name", 2048);
  record.at = parse_time(json_string(json, "at", 40));
  record.booted = json_bool(json, "booted");
  record.passed = json_bool(json, "passed");
  record.took = std::chrono::microseconds(json_uint(json, "took_us"));
  record.program_version = json_string_or(json, "program_version", "", 64);
  for (const Json& step : json_array(json, "steps", most_steps))
    record.steps.push_back(parse_step(step));
  return record;
}

/// Never in the middle of a character.
std::string cut_text(const std::string& text, std::size_t longest) {
  if (text.size() <= longest) return text;
  std::size_t end = longest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U)
    --end;
  return text.substr(0, end);
}

}  // namespace

std::string_view to_string(DrillStep::Kind kind) {
  return word_of(kinds_of_steps, kind);
}

std::string_view to_string(DrillStep::Outcome outcome) {
  return word_of(outcomes_of_steps, outcome);
}

Json to_json(const DrillRecord& record) {
  Json steps = Json::array();
  for (const DrillStep& step : record.steps) {
    if (steps.size() == most_steps) break;
    steps.push_back({{"kind", to_string(step.kind)},
                     {"name", cut_text(step.name, longest_step_name)},
                     {"outcome", to_string(step.outcome)},
                     {"detail", cut_text(step.detail, longest_detail)},
                     {"took_us", step.took.count()}});
  }
  return {{"format", drill_format},
          {"still_point", record.still_point},
          {"name", record.name},
          {"at", format_time_precise(record.at)},
          {"booted", record.booted},
          {"passed", record.passed},
          {"took_us", record.took.count()},
          {"program_version", record.program_version},
          {"steps", std::move(steps)}};
}

DrillRecord parse_drill(const Json& json) {
  try {
    return parse_record(json);
  } catch (const ProtocolError& e) {
    throw Corruption(fmt::format("a drill's record is not valid: {}", e.what()));
  } catch (const UsageError& e) {
    throw Corruption(fmt::format("a drill's record is not valid: {}", e.what()));
  }
}

std::string drill_object(std::string_view name, WallTime at) {
  const StillPointName parsed = parse_still_point_name(name);
  return fmt::format("{}{}/{}_{}", drills_directory, escape_domain(parsed.domain), parsed.time,
                     format_time_precise(at));
}

DrillObject parse_drill_object(std::string_view object) {
  const std::size_t last = object.rfind('_');
  if (!object.starts_with(drills_directory) || last == std::string_view::npos) return {};
  const std::optional<WallTime> at = parse_name_time(object.substr(last + 1));
  std::string manifest = "manifests/";
  manifest += object.substr(drills_directory.size(), last - std::min(last, drills_directory.size()));
  const std::optional<ManifestObject> named = parse_manifest_object(manifest);
  if (!at || !named) return {};
  return {fmt::format("{}@{}", named->domain, named->time), *at};
}

}  // namespace stillpoint
