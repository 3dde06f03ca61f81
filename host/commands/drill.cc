// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/drill.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "host/commands/command.hh"
#include "host/commands/drill-text.hh"
#include "host/commands/format.hh"
#include "host/commands/offline-drill.hh"
#include "host/commands/output.hh"
#include "host/commands/served-disk.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <optional>

namespace stillpoint {

namespace {

struct DrillOptions {
  std::string name;
  DrillRequest request;
  std::string answer_within;
  std::string timeout;
  bool quick = false;
  bool no_boot = false;
};

constexpr const char* drills_directory_parent = "/var/lib/stillpoint/boot";

DrillRequest request_of(const DrillOptions& options, const Manifest& manifest) {
  DrillRequest request = options.request;
  if (request.boot.name.empty()) request.boot.name = manifest.domain + "-drill";
  if (request.boot.name.find('/') != std::string::npos)
    throw UsageError(fmt::format("'{}' is no domain's name", printable(request.boot.name)));
  request.boot.directory = request.boot.directory.empty()
                               ? std::filesystem::path(drills_directory_parent) / request.boot.name
                               : std::filesystem::absolute(request.boot.directory);
  if (!options.answer_within.empty()) request.answer_within = parse_duration(options.answer_within);
  if (!options.timeout.empty()) request.timeout = parse_duration(options.timeout);
  request.read_disks = !options.quick;
  return request;
}

/// What kept it from being written down; nothing when it was.
std::optional<Error> record(const Invocation& invocation, const DrillRecord& drill) {
  try {
    Repository repository = invocation.open(Repository::Mode::write);
    if (!repository.contains(drill.name)) throw NotFound(fmt::format("{} was deleted meanwhile", drill.name));
    repository.record_drill(drill);
    return std::nullopt;
  } catch (const Error& error) {
    log_error("the result is not recorded: {}", printable(error.what()));
    return error;
  }
}

void tell_step(Progress& progress, const DrillStep& step) {
  progress.note(fmt::format("{} {}: {}{}{}", to_string(step.kind), printable(step.name), to_string(step.outcome),
                            step.detail.empty() ? "" : ": ", printable(step.detail)));
}

ExitCode drill(const DrillOptions& options, const Invocation& invocation) {
  const auto [access, manifest] = open_to_serve(invocation, options.name);
  const DrillRequest request = request_of(options, manifest);
  if (!options.no_boot && manifest.domain_xml.empty())
    throw UsageError(fmt::format("{} is of an image without a domain", printable(manifest.name)),
                     "--no-boot recovers its databases without a guest");
  DrillRecord drilled;
  {
    Repository repository = invocation.open(Repository::Mode::read);
    Progress progress(invocation.progress, STDERR_FILENO);
    const DrillObserver observer{[&](const std::string& disk) { return progress.line(disk); },
                                 [&](const DrillStep& step) { tell_step(progress, step); }};
    if (options.no_boot) {
      drilled = drill_offline(repository, manifest, access, request, observer, invocation.stop);
    } else {
      Connection libvirt(invocation.libvirt_uri);
      drilled = drill_by_boot(libvirt, repository, manifest, access, request, observer, invocation.stop);
    }
  }
  const std::optional<Error> unrecorded = record(invocation, drilled);
  if (invocation.json) {
    Json json = to_json(drilled);
    json["recorded"] = !unrecorded;
    print_json(json);
  } else {
    print_result(fmt::format("{} {}", printable(drilled.name), describe(drilled)));
    if (request.keep)
      print_result(fmt::format("  stillpoint boot --remove {} ends it\n", printable(request.boot.name)));
  }
  if (!drilled.passed) return ExitCode::drill_failed;
  return unrecorded ? unrecorded->exit_code() : ExitCode::success;
}

}  // namespace

RunVerb add_drill(CLI::App& parser) {
  const auto options = std::make_shared<DrillOptions>();
  parser.add_option("NAME", options->name, "a still point, DOMAIN@latest or DOMAIN")->required();
  parser.add_option("--name", options->request.boot.name, "of the domain that is booted (DOMAIN-drill)")
      ->type_name("DOMAIN");
  parser
      .add_option("--directory", options->request.boot.directory,
                  "for its sockets and overlays (below " + std::string(drills_directory_parent) + ")")
      ->type_name("DIR");
  parser.add_option("--answer-within", options->answer_within, "for the guest and its databases to come up (10min)")
      ->type_name("DURATION");
  parser.add_option("--timeout", options->timeout, "for all of it (720min)")->type_name("DURATION");
  parser.add_flag("--quick", options->quick, "do not read all data of the disks");
  parser.add_flag("--keep", options->request.keep, "leave the domain running, to look at it");
  parser
      .add_flag("--no-boot", options->no_boot,
                "recover the databases with this host's servers, kept apart, and no guest")
      ->excludes("--keep")
      ->excludes("--name")
      ->excludes("--directory");
  return [options](const Invocation& invocation) { return drill(*options, invocation); };
}

}  // namespace stillpoint
