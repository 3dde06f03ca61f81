// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/log.hh"
#include "host/commands/command.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/commands/retention-options.hh"
#include "host/commands/table.hh"
#include "host/commands/tree-layout.hh"
#include "host/repository/repository.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>

namespace stillpoint {

namespace {

struct PruneRequest {
  std::vector<std::string> domains;
  RetentionOptions retention;
  unsigned least_live_percent = 50;
  unsigned wait_minutes = 0;
  bool dry_run = false;
};

/// The still point and its trees; what it alone needed of the packs is the next prune's.
void delete_still_point(Repository& repository, const std::string& name) {
  std::optional<Manifest> manifest;
  try {
    manifest = repository.load(name);
  } catch (const Corruption& e) {
    log_warning("{}; its trees, if it had any, are left", printable(e.what()));
  }
  repository.remove(name);
  if (const auto directory = repository.directory(); directory && manifest) remove_trees(*directory, *manifest);
}

Json to_json(const ReclaimResult& result) {
  return {{"packs", result.packs},
          {"packs_deleted", result.packs_deleted},
          {"bytes_deleted", result.bytes_deleted},
          {"bytes_rewritten", result.bytes_rewritten},
          {"packs_kept", result.packs_kept},
          {"packs_waiting", result.packs_waiting},
          {"waits_for", result.waits_for},
          {"damaged", result.damaged}};
}

std::string text_of(const ReclaimResult& result, bool dry_run) {
  const std::uint64_t freed = result.bytes_deleted - std::min(result.bytes_deleted, result.bytes_rewritten);
  if (result.packs_waiting > 0)
    return fmt::format("{} of {} packs, {}, are deleted by the next prune, when these have ended: {}\n",
                       result.packs_waiting, result.packs, format_size(freed),
                       printable(fmt::format("{}", fmt::join(result.waits_for, "; "))));
  return fmt::format("{} of {} packs {}: {} reclaimed, {} written anew\n", result.packs_deleted, result.packs,
                     dry_run ? "would be deleted" : "deleted", format_size(freed), format_size(result.bytes_rewritten));
}

Table table_of(const std::vector<RetainedStillPoint>& still_points) {
  Table table({{"NAME"}, {"KEPT BY"}});
  for (const RetainedStillPoint& still_point : still_points)
    table.add({still_point.name,
               still_point.kept_by.empty() ? "(deleted)" : fmt::format("{}", fmt::join(still_point.kept_by, ", "))});
  return table;
}

ExitCode prune(const PruneRequest& request, const Invocation& invocation) {
  const RetentionPolicy policy = request.retention.policy();
  if (policy.empty() && !request.domains.empty())
    throw UsageError("without a rule to keep by nothing is deleted, of no domain", "say, for example, --keep-daily 14");
  Repository repository = invocation.open(request.dry_run ? Repository::Mode::read : Repository::Mode::reclaim);
  Progress progress(invocation.progress, STDERR_FILENO);
  std::vector<RetainedStillPoint> still_points;
  if (!policy.empty()) still_points = repository.retention(policy, request.domains);
  Json rows = Json::array();
  std::size_t deleted = 0;
  for (const RetainedStillPoint& still_point : still_points) {
    if (invocation.stop.stop_requested()) throw Interrupted("stopped while it deleted still points");
    rows.push_back({{"name", still_point.name}, {"kept_by", still_point.kept_by}});
    if (!still_point.kept_by.empty()) continue;
    ++deleted;
    if (!request.dry_run) delete_still_point(repository, still_point.name);
  }
  ReclaimOptions options;
  options.least_live_percent = request.least_live_percent;
  options.patience = std::chrono::minutes(request.wait_minutes);
  options.dry_run = request.dry_run;
  options.stop = invocation.stop;
  options.note = [&](std::string_view text) { progress.note(text); };
  if (request.dry_run)
    for (const RetainedStillPoint& still_point : still_points)
      if (still_point.kept_by.empty()) options.without.push_back(still_point.name);
  const ReclaimResult result = repository.reclaim(options);
  std::size_t strays = 0;
  if (const auto directory = repository.directory(); directory && !request.dry_run) {
    // Before the names: whoever has made a tree since then, began to work since then.
    const WallTime oldest = repository.oldest_work();
    strays = sweep_trees(*directory, repository.resolve({}), oldest, invocation.stop);
  }
  for (const std::string& name : result.damaged)
    log_warning("{} lacks something: what it has is kept", printable(name));
  if (invocation.json) {
    print_json({{"still_points", std::move(rows)},
                {"dry_run", request.dry_run},
                {"reclaimed", to_json(result)},
                {"stray_trees_deleted", strays}});
    return result.damaged.empty() ? ExitCode::success : ExitCode::corruption;
  }
  std::string text;
  if (!still_points.empty()) {
    text = table_of(still_points).text();
    text += fmt::format("{} of {} still points {}\n", deleted, still_points.size(),
                        request.dry_run ? "would be deleted" : "deleted");
  }
  if (result.packs_kept > 0)
    text +=
        fmt::format("{} packs are kept because they cannot be read as a whole: see 'stillpoint verify --read-data'\n",
                    result.packs_kept);
  if (strays > 0) text += fmt::format("{} trees of backups that were never completed are deleted\n", strays);
  print_result(text + text_of(result, request.dry_run));
  return result.damaged.empty() ? ExitCode::success : ExitCode::corruption;
}

ExitCode remove(const std::vector<std::string>& names, const Invocation& invocation) {
  Repository repository = invocation.open(Repository::Mode::reclaim);
  std::vector<std::string> resolved;
  // All of them first: a name that is wrong deletes nothing. Not read: a damaged one can be deleted too.
  for (const std::string& name : names) {
    const std::string full = name.ends_with("@latest") ? repository.resolve({name}).at(0) : name;
    if (!repository.contains(full)) {
      if (name.find('@') == std::string::npos)
        throw UsageError(fmt::format("'{}' names no single still point", printable(name)),
                         "name it in full; to delete several, see 'stillpoint prune'");
      static_cast<void>(repository.load(full));  // says what there is instead
    }
    if (repository.is_protected(full))
      throw UsageError(fmt::format("{} is protected", printable(full)), fmt::format("stillpoint unprotect {}", full));
    resolved.push_back(full);
  }
  for (const std::string& name : resolved)
    delete_still_point(repository, name);
  if (invocation.json)
    print_json({{"deleted", resolved}});
  else
    print_result(fmt::format("{} deleted; 'stillpoint prune' reclaims the space\n", fmt::join(resolved, ", ")));
  return ExitCode::success;
}

ExitCode protect(const std::vector<std::string>& names, bool on, const Invocation& invocation) {
  Repository repository = invocation.open(Repository::Mode::write);
  std::vector<std::string> resolved;
  for (const std::string& name : names)
    resolved.push_back(repository.load(name).name);
  for (const std::string& name : resolved)
    repository.protect(name, on);
  if (invocation.json)
    print_json({{on ? "protected" : "unprotected", resolved}});
  else
    print_result(fmt::format("{} {} protected\n", fmt::join(resolved, ", "), on ? "is" : "is no longer"));
  return ExitCode::success;
}

std::shared_ptr<std::vector<std::string>> add_names(CLI::App& parser) {
  const auto names = std::make_shared<std::vector<std::string>>();
  parser.add_option("NAME", *names, "a still point")->required();
  return names;
}

}  // namespace

RunVerb add_prune(CLI::App& parser) {
  const auto request = std::make_shared<PruneRequest>();
  parser.add_option("DOMAIN", request->domains, "delete still points of these domains only (all)");
  add_retention_options(parser, request->retention);
  parser
      .add_option("--min-live", request->least_live_percent,
                  "write a pack anew of which less than this percentage is needed (50)")
      ->check(CLI::Range(0, 100))
      ->type_name("PERCENT");
  parser.add_option("--wait", request->wait_minutes, "wait for running backups and restores, so many minutes (0)")
      ->check(CLI::Range(0, 10000))
      ->type_name("MINUTES");
  parser.add_flag("-n,--dry-run", request->dry_run, "only say what would be deleted");
  return [request](const Invocation& invocation) { return prune(*request, invocation); };
}

RunVerb add_delete(CLI::App& parser) {
  const auto names = add_names(parser);
  return [names](const Invocation& invocation) { return remove(*names, invocation); };
}

RunVerb add_protect(CLI::App& parser) {
  const auto names = add_names(parser);
  return [names](const Invocation& invocation) { return protect(*names, true, invocation); };
}

RunVerb add_unprotect(CLI::App& parser) {
  const auto names = add_names(parser);
  return [names](const Invocation& invocation) { return protect(*names, false, invocation); };
}

}  // namespace stillpoint
