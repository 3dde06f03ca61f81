// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/command.hh"
#include "host/commands/output.hh"
#include "host/repository/repository.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace stillpoint {

namespace {

ExitCode rebuild(const Invocation& invocation) {
  Repository repository = invocation.open(Repository::Mode::write);
  const std::size_t packs = repository.rebuild_index();
  if (invocation.json)
    print_json({{"packs", packs}});
  else
    print_result(fmt::format("the index is made anew from {} packs\n", packs));
  return ExitCode::success;
}

}  // namespace

RunVerb add_index(CLI::App& parser) {
  parser.add_subcommand("rebuild", "replace the index by what the packs themselves say");
  parser.require_subcommand(1);
  return rebuild;
}

}  // namespace stillpoint
