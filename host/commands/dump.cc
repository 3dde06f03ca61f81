// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/file.hh"
#include "host/commands/command.hh"
#include "host/commands/dump-choice.hh"
#include "host/commands/format.hh"
#include "host/commands/output-file.hh"
#include "host/commands/output.hh"
#include "host/commands/table.hh"
#include "host/commands/watched-progress.hh"
#include "host/repository/repository.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <optional>

namespace stillpoint {

namespace {

struct DumpOptions {
  std::string name;
  std::string database;
  std::string to;
  bool overwrite = false;
};

void list_dumps(const Manifest& manifest, const Invocation& invocation) {
  Json rows = Json::array();
  Table table({{"DUMP"}, {"STANDS"}, {"SIZE", Table::Align::right}, {"FAILURE"}});
  for (const DumpRecord& dump : manifest.dumps) {
    const DatabaseReport* database = database_of(manifest, dump.name);
    const std::string stands(database != nullptr ? to_string(database->exactness) : "-");
    rows.push_back({{"name", dump.name}, {"exactness", stands}, {"bytes", dump.map.size}, {"failure", dump.failure}});
    table.add({dump.name, stands, dump.failure.empty() ? format_size(dump.map.size) : "-",
               dump.failure.empty() ? "-" : dump.failure});
  }
  if (invocation.json)
    print_json(rows);
  else if (!table.empty())
    print_result(table.text());
}

void write_dump(Repository& repository, const DumpRecord& dump, CaptureProgress& progress,
                const std::function<void(std::span<const std::byte>)>& write) {
  std::uint64_t done = 0;
  repository.read_dump(dump.map, [&](std::span<const std::byte> bytes) {
    write(bytes);
    done += bytes.size();
    progress.advance(done, dump.map.size);
  });
}

ExitCode dump(const DumpOptions& options, const Invocation& invocation) {
  Repository repository = invocation.open(Repository::Mode::read);
  const Manifest manifest = repository.load(options.name);
  if (options.database.empty()) {
    list_dumps(manifest, invocation);
    return ExitCode::success;
  }
  if (options.to.empty() && invocation.json)
    throw UsageError("--json and a dump cannot share standard output", "write the dump to a file with --to");
  const DumpRecord& chosen = choose_dump(manifest, options.database);
  // Progress and a dump on one terminal would mix.
  const bool to_terminal = options.to.empty() && ::isatty(STDOUT_FILENO) == 1;
  Progress progress(to_terminal ? Progress::Mode::notes : invocation.progress, STDERR_FILENO);
  WatchedProgress watched(progress.line(chosen.name), invocation.stop, "stopped before the dump was complete");
  if (options.to.empty()) {
    write_dump(repository, chosen, watched,
               [](std::span<const std::byte> bytes) { write_all(STDOUT_FILENO, bytes, "standard output"); });
    return ExitCode::success;
  }
  OutputFile file(options.to, options.overwrite);
  write_dump(repository, chosen, watched, [&](std::span<const std::byte> bytes) { file.write(bytes); });
  file.commit();
  if (invocation.json)
    print_json({{"name", manifest.name}, {"dump", chosen.name}, {"to", options.to}, {"bytes", chosen.map.size}});
  return ExitCode::success;
}

}  // namespace

RunVerb add_dump(CLI::App& parser) {
  const auto options = std::make_shared<DumpOptions>();
  parser.add_option("NAME", options->name, "a still point, DOMAIN@latest or DOMAIN")->required();
  parser.add_option("DATABASE", options->database,
                    "a dump, as it is listed without this, or a database's own name where only one has it");
  parser.add_option("--to", options->to, "write it to a new file instead of standard output")->type_name("FILE");
  parser.add_flag("--overwrite", options->overwrite, "replace the file if it is there");
  return [options](const Invocation& invocation) { return dump(*options, invocation); };
}

}  // namespace stillpoint
