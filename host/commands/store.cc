// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/command.hh"
#include "host/repository/store-server.hh"

#include <CLI/CLI.hpp>
#include <unistd.h>

#include <filesystem>
#include <memory>

namespace stillpoint {

RunVerb add_store(CLI::App& parser) {
  const auto options = std::make_shared<StoreServerOptions>();
  parser.add_option("PATH", options->path, "the repository's directory")->required();
  parser.add_flag("--append-only", options->append_only, "refuse to delete anything: for those who write backups");
  parser
      .add_option("--domain", options->domains, "with it, refuse still points of other domains than those of this name")
      ->type_name("PATTERN")
      ->allow_extra_args(false);
  parser.footer("It speaks on standard input and output, to 'stillpoint --repository ssh://HOST/PATH'.");
  return [options](const Invocation& invocation) {
    if (::isatty(STDIN_FILENO) != 0 || ::isatty(STDOUT_FILENO) != 0)
      throw UsageError("this verb speaks to another stillpoint, not to a terminal",
                       "name the repository as ssh://HOST/PATH on the other machine");
    options->path = std::filesystem::absolute(options->path).lexically_normal();
    serve_store(STDIN_FILENO, STDOUT_FILENO, *options, invocation.stop);
    return ExitCode::success;
  };
}

}  // namespace stillpoint
