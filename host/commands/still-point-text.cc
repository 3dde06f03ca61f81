// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/still-point-text.hh"

#include "host/commands/format.hh"
#include "host/commands/table.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

namespace {

using Align = Table::Align;

std::string dash_if_empty(const std::string& text) {
  return text.empty() ? "-" : text;
}

std::string field(std::string_view name, std::string_view value) {
  return fmt::format("{:<12}{}\n", name, printable(value));
}

std::string bullets(const std::vector<std::string>& lines) {
  std::string out;
  for (const std::string& line : lines)
    out += "  - " + printable(line) + '\n';
  return out;
}

std::string section(std::string_view title, const std::string& body) {
  return body.empty() ? std::string() : fmt::format("\n{}\n{}", title, body);
}

std::string window_text(const WindowRecord& window) {
  if (window.total.count() == 0) return "none: the guest was not frozen";
  return fmt::format(
      "{} (freeze {}: site hooks {}, barrier {}; disk snapshots {}; thaw {}); {} file systems frozen, {} thawed",
      format_duration(window.total), format_duration(window.freeze), format_duration(window.hooks),
      format_duration(window.barrier), format_duration(window.disk_snapshots), format_duration(window.thaw),
      window.frozen, window.thawed);
}

std::string disks_text(const Manifest& manifest) {
  Table table({{"DISK"},
               {"FORMAT"},
               {"SIZE", Align::right},
               {"READ", Align::right},
               {"CHANGED", Align::right},
               {"STORED", Align::right},
               {"HOW"},
               {"SOURCE"}});
  for (const DiskRecord& disk : manifest.disks)
    table.add({disk.target, disk.format, format_size(disk.map.size), format_size(disk.read), format_size(disk.changed),
               format_size(disk.stored),
               disk.incremental ? "incremental"
                                : fmt::format("full{}{}", disk.full_reason.empty() ? "" : ": ", disk.full_reason),
               disk.source});
  return table.empty() ? std::string() : table.text(2);
}

std::string position_text(const Json& position) {
  std::string out;
  for (const auto& [key, value] : position.items())
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", key,
                       value.is_string() ? value.get<std::string>() : dump_json(value));
  return dash_if_empty(out);
}

std::string database_name(const DatabaseReport& database) {
  return fmt::format("{} {}{}{}", database.engine, database.instance, database.database.empty() ? "" : " ",
                     database.database);
}

std::string databases_text(const Report& report) {
  Table table({{"DATABASE"},
               {"STANDS"},
               {"MODE"},
               {"ACQUIRED", Align::right},
               {"TRIES", Align::right},
               {"POSITION"},
               {"SERVER"}});
  for (const DatabaseReport& database : report.databases)
    table.add({database_name(database), std::string(to_string(database.exactness)), dash_if_empty(database.mode),
               format_duration(database.acquired_in), fmt::format("{}", database.attempts),
               position_text(database.position), database.server_version});
  return table.empty() ? std::string() : table.text(2);
}

/// Why databases are not exact, and what of them is not covered.
std::string not_covered_text(const Report& report) {
  std::vector<std::string> lines;
  for (const DatabaseReport& database : report.databases) {
    if (!database.reason.empty())
      lines.push_back(
          fmt::format("{} is {}: {}", database_name(database), to_string(database.exactness), database.reason));
    for (const NotCovered& n : database.not_covered)
      lines.push_back(n.name.empty() ? fmt::format("{}: {} x {}", database_name(database), n.count, n.kind)
                                     : fmt::format("{}: {} {}", database_name(database), n.kind, n.name));
  }
  return bullets(lines);
}

std::string site_hooks_text(const Report& report) {
  Table table({{"HOOK"}, {"TOOK", Align::right}, {"FAILURE"}});
  for (const SiteHookReport& hook : report.site_hooks)
    table.add({hook.name, format_duration(hook.took), dash_if_empty(hook.failure)});
  return table.empty() ? std::string() : table.text(2);
}

std::string dumps_text(const Manifest& manifest) {
  Table table({{"DUMP"}, {"SIZE", Align::right}, {"STORED", Align::right}, {"FAILURE"}});
  for (const DumpRecord& dump : manifest.dumps)
    table.add({dump.name, dump.failure.empty() ? format_size(dump.map.size) : "-", format_size(dump.stored),
               dash_if_empty(dump.failure)});
  return table.empty() ? std::string() : table.text(2);
}

std::string state_text(const Manifest& manifest) {
  Table table({{"STATE"}, {"FILE"}, {"SIZE", Align::right}, {"STORED", Align::right}, {"SOURCE"}, {"FAILURE"}});
  for (const StateRecord& state : manifest.state)
    table.add({std::string(to_string(state.kind)), state.name,
               state.failure.empty() ? format_size(state.map.size) : "-", format_size(state.stored), state.source,
               dash_if_empty(state.failure)});
  return table.empty() ? std::string() : table.text(2);
}

std::string trees_text(const Manifest& manifest) {
  Table table({{"FILE SYSTEM"},
               {"MOUNTED ON"},
               {"ENTRIES", Align::right},
               {"SIZE", Align::right},
               {"WRITTEN", Align::right},
               {"TREE"}});
  for (const TreeRecord& tree : manifest.trees)
    table.add({tree.file_system, dash_if_empty(tree.mount_point), fmt::format("{}", tree.entries),
               format_size(tree.bytes),
               fmt::format("{} in {} files", format_size(tree.bytes_written), tree.files_written),
               tree.failure.empty() ? tree.path : "none: " + tree.failure});
  return table.empty() ? std::string() : table.text(2);
}

}  // namespace

Totals totals_of(const Manifest& manifest) {
  Totals totals;
  for (const DiskRecord& disk : manifest.disks) {
    totals.disk_bytes += disk.map.size;
    totals.read += disk.read;
    totals.changed += disk.changed;
    totals.stored += disk.stored;
  }
  for (const DumpRecord& dump : manifest.dumps) {
    totals.stored += dump.stored;
    totals.complete = totals.complete && dump.failure.empty();
  }
  for (const TreeRecord& tree : manifest.trees)
    totals.complete = totals.complete && tree.failure.empty();
  for (const StateRecord& state : manifest.state) {
    totals.stored += state.stored;
    totals.complete = totals.complete && state.failure.empty();
  }
  if (!manifest.report) return totals;
  for (const DatabaseReport& database : manifest.report->databases) {
    // The dump is what an operator would load: exact means nothing when it is not there.
    const bool dump_failed = std::any_of(manifest.dumps.begin(), manifest.dumps.end(), [&](const DumpRecord& dump) {
      return dump.name == database.dump && !dump.failure.empty();
    });
    ++totals.databases;
    if (database.exactness == Exactness::exact && !dump_failed) ++totals.databases_exact;
  }
  return totals;
}

std::string describe(const Manifest& manifest) {
  std::string out = field("name", manifest.name);
  out += field("id", manifest.id);
  out += field("instant", format_time_precise(manifest.instant));
  out += field("domain", manifest.domain_uuid.empty() ? manifest.domain + " (image without a guest)"
                                                      : fmt::format("{} ({})", manifest.domain, manifest.domain_uuid));
  out += field("grade", to_string(manifest.grade));
  out += bullets(manifest.grade_reasons);
  out += field("window", window_text(manifest.window));
  if (!manifest.checkpoint.empty()) out += field("checkpoint", manifest.checkpoint);
  if (!manifest.parent.empty()) out += field("parent", manifest.parent);
  out += field("made by", "stillpoint " + manifest.program_version);
  out += section("Disks", disks_text(manifest));
  if (manifest.report) {
    const Report& report = *manifest.report;
    out += section(fmt::format("Databases, as the agent {} on {} attests", printable(report.agent_version),
                               printable(report.hostname)),
                   databases_text(report));
    out += section("Not exact or not covered", not_covered_text(report));
    out += section("Site hooks", site_hooks_text(report));
  }
  out += section("Dumps", dumps_text(manifest));
  out += section("Trees", trees_text(manifest));
  out += section("Firmware and TPM", state_text(manifest));
  out += section("Warnings", bullets(manifest.warnings));
  return out;
}

std::string summarise(const Manifest& manifest) {
  const Totals totals = totals_of(manifest);
  std::string out = field("name", manifest.name) + field("grade", to_string(manifest.grade));
  out += bullets(manifest.grade_reasons);
  if (manifest.window.total.count() != 0) out += field("window", format_duration(manifest.window.total));
  for (const DiskRecord& disk : manifest.disks)
    out += field(disk.target,
                 fmt::format("{}: read {}, changed {}, stored {}{}{}", disk.incremental ? "incremental" : "full",
                             format_size(disk.read), format_size(disk.changed), format_size(disk.stored),
                             disk.full_reason.empty() ? "" : "; full because ", disk.full_reason));
  if (totals.databases > 0)
    out += field("databases", fmt::format("{} of {} exact", totals.databases_exact, totals.databases));
  for (const DumpRecord& dump : manifest.dumps)
    if (!dump.failure.empty()) out += field("failed", fmt::format("dump {}: {}", dump.name, dump.failure));
  for (const TreeRecord& tree : manifest.trees)
    if (!tree.failure.empty()) out += field("failed", fmt::format("tree of {}: {}", tree.file_system, tree.failure));
  for (const StateRecord& state : manifest.state)
    if (!state.failure.empty()) out += field("failed", fmt::format("{}: {}", to_string(state.kind), state.failure));
  for (const std::string& warning : manifest.warnings)
    out += field("warning", warning);
  return out;
}

}  // namespace stillpoint
