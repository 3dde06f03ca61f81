// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/command.hh"
#include "host/commands/drill-text.hh"
#include "host/commands/output.hh"
#include "host/commands/still-point-text.hh"
#include "host/repository/repository.hh"

#include <CLI/CLI.hpp>

#include <map>
#include <memory>
#include <optional>

namespace stillpoint {

namespace {

ExitCode show(const std::string& name, const Invocation& invocation) {
  Repository repository = invocation.open(Repository::Mode::read);
  const Manifest manifest = repository.load(name);
  const std::map<std::string, std::string> drills = repository.drills(manifest.name);
  std::optional<DrillRecord> drill;
  if (!drills.empty()) drill = read_drill(repository, manifest, drills.begin()->second);
  if (invocation.json) {
    Json json = to_json(manifest);
    if (drill) json["drill"] = to_json(*drill);
    print_json(json);
  } else {
    print_result(describe(manifest) + (drill ? "\nDrill\n" + describe(*drill) : ""));
  }
  return ExitCode::success;
}

}  // namespace

RunVerb add_show(CLI::App& parser) {
  const auto name = std::make_shared<std::string>();
  parser.add_option("NAME", *name, "a still point, DOMAIN@latest or DOMAIN")->required();
  return [name](const Invocation& invocation) { return show(*name, invocation); };
}

}  // namespace stillpoint
