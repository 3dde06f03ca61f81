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
#include "host/restore/dump-filter.hh"
#include "host/restore/dump-loader.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <vector>

namespace stillpoint {

namespace {

struct DumpOptions {
  std::string name;
  std::string database;
  std::string to;
  std::string into;
  std::vector<std::string> tables;
  bool no_roles = false;
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

bool is_postgresql(const DumpRecord& dump) {
  return dump.name.starts_with("postgresql/");
}

/// What there is to choose a table from: PostgreSQL's and MySQL's dumps have tables, others' are files.
void check_engine(const DumpRecord& dump, std::string_view wish) {
  const std::string_view part = std::string_view(dump.name).substr(dump.name.rfind('/') + 1);
  if (part.starts_with('@'))
    throw UsageError(
        fmt::format("{} is not the dump of one database, so {} means nothing to it", printable(dump.name), wish),
        "write it to a file with --to, and look at it");
  if (!is_postgresql(dump) && !dump.name.starts_with("mariadb/") && !dump.name.starts_with("mysql/"))
    throw UsageError(fmt::format("{} is no dump of PostgreSQL, MariaDB or MySQL, so {} means nothing to it",
                                 printable(dump.name), wish),
                     "write it to a file with --to");
}

std::unique_ptr<DumpFilter> filter_for(const DumpRecord& dump, const DumpOptions& options, FilterSink sink) {
  if (is_postgresql(dump))
    return options.tables.empty() ? postgresql_filter(std::move(sink))
                                  : postgresql_table_filter(options.tables, std::move(sink));
  return options.tables.empty() ? mysql_database_filter(std::move(sink))
                                : mysql_table_filter(options.tables, std::move(sink));
}

/// In double quotes, as PostgreSQL reads a name whatever it holds.
std::string quoted(const std::string& name) {
  std::string text = "\"";
  for (const char c : name)
    text += c == '"' ? "\"\"" : std::string(1, c);
  return text + "\"";
}

/// The roles that own what is in the dump, and that the server lacks: they can do nothing but own. What they may do,
/// and by which password, was the guest's to say on its own server, and is the operator's to say on this one.
std::vector<std::string> make_roles(Repository& repository, const Manifest& manifest, const DumpRecord& dump,
                                    DumpDestination& destination, const Invocation& invocation) {
  const std::string instance = dump.name.substr(0, dump.name.rfind('/'));
  const auto globals =
      std::ranges::find_if(manifest.dumps, [&](const DumpRecord& d) { return d.name == instance + "/@globals"; });
  if (globals == manifest.dumps.end() || !globals->failure.empty()) return {};
  RoleNames wanted;
  repository.read_dump(globals->map, [&](std::span<const std::byte> bytes) { wanted.write(bytes); });
  const std::set<std::string> there = destination.roles();
  std::vector<std::string> made;
  std::ranges::set_difference(wanted.names(), there, std::back_inserter(made));
  if (made.empty()) return {};
  const std::unique_ptr<DumpLoading> loading = destination.load(invocation.stop);
  for (const std::string& name : made)
    loading->write(as_bytes(fmt::format("CREATE ROLE {} NOLOGIN;\n", quoted(name))));
  loading->finish();
  return made;
}

ExitCode load(Repository& repository, const Manifest& manifest, const DumpRecord& dump, const DumpOptions& options,
              const Invocation& invocation) {
  check_engine(dump, "--into");
  const std::unique_ptr<DumpDestination> destination =
      is_postgresql(dump) ? postgresql_destination(options.into) : mysql_destination(options.into);
  if (const std::uint64_t there = destination->tables(options.tables); there > 0)
    throw UsageError(options.tables.empty()
                         ? fmt::format("'{}' is not empty: it has {} tables", printable(options.into), there)
                         : fmt::format("'{}' has a table of that name already", printable(options.into)),
                     "name a database that was just created, and look at what is there before you replace it");
  std::vector<std::string> roles;
  {
    Progress progress(invocation.progress, STDERR_FILENO);
    WatchedProgress watched(progress.line(dump.name), invocation.stop, "stopped while a dump was loaded");
    if (is_postgresql(dump) && !options.no_roles)
      roles = make_roles(repository, manifest, dump, *destination, invocation);
    const std::unique_ptr<DumpLoading> loading = destination->load(invocation.stop);
    const auto filter = filter_for(dump, options, [&](std::span<const std::byte> bytes) { loading->write(bytes); });
    write_dump(repository, dump, watched, [&](std::span<const std::byte> bytes) { filter->write(bytes); });
    filter->finish();
    loading->finish();
  }
  const DatabaseReport* database = database_of(manifest, dump.name);
  const Json position = database != nullptr ? Json(database->position) : Json::object();
  if (invocation.json) {
    print_json({{"name", manifest.name},
                {"dump", dump.name},
                {"into", options.into},
                {"roles", roles},
                {"position", position}});
  } else {
    print_result(fmt::format("loaded {} of {} into {}\n", printable(dump.name), printable(manifest.name),
                             printable(options.into)));
    for (const std::string& role : roles)
      print_result(fmt::format("  made role {}, without a right to log in\n", printable(role)));
    for (const auto& [key, value] : position.items())
      print_result(fmt::format("  {} of this instant: {}\n", printable(key),
                               printable(value.is_string() ? value.get<std::string>() : dump_json(value))));
  }
  return ExitCode::success;
}

ExitCode dump(const DumpOptions& options, const Invocation& invocation) {
  if (!options.to.empty() && !options.into.empty())
    throw UsageError("--to and --into cannot both be meant", "name a file or a database");
  Repository repository = invocation.open(Repository::Mode::read);
  const Manifest manifest = repository.load(options.name);
  if (options.database.empty()) {
    if (!options.into.empty() || !options.to.empty() || !options.tables.empty())
      throw UsageError("which dump is not said", fmt::format("'stillpoint dump {}' lists them", manifest.name));
    list_dumps(manifest, invocation);
    return ExitCode::success;
  }
  const DumpRecord& chosen = choose_dump(manifest, options.database);
  if (!options.into.empty()) return load(repository, manifest, chosen, options, invocation);
  if (options.to.empty() && invocation.json)
    throw UsageError("--json and a dump cannot share standard output", "write the dump to a file with --to");
  if (!options.tables.empty()) check_engine(chosen, "--table");
  std::optional<OutputFile> file;
  if (!options.to.empty()) file.emplace(options.to, options.overwrite);
  const FilterSink sink = [&file](std::span<const std::byte> bytes) {
    file ? file->write(bytes) : write_all(STDOUT_FILENO, bytes, "standard output");
  };
  {
    // Progress and a dump on one terminal would mix.
    const bool to_terminal = !file && ::isatty(STDOUT_FILENO) == 1;
    Progress progress(to_terminal ? Progress::Mode::notes : invocation.progress, STDERR_FILENO);
    WatchedProgress watched(progress.line(chosen.name), invocation.stop, "stopped before the dump was complete");
    const auto filter = options.tables.empty() ? nullptr : filter_for(chosen, options, sink);
    write_dump(repository, chosen, watched,
               [&](std::span<const std::byte> bytes) { filter ? filter->write(bytes) : sink(bytes); });
    if (filter) filter->finish();
  }
  if (!file) return ExitCode::success;
  file->commit();
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
  parser
      .add_option("--into", options->into,
                  "load it into this empty database: what psql takes for one, or a MariaDB database's name")
      ->type_name("DATABASE");
  parser.add_option("--table", options->tables, "only this table: its definition, its rows and its keys")
      ->type_name("TABLE")
      ->allow_extra_args(false);
  parser.add_flag("--no-roles", options->no_roles, "with --into, make no roles: those that the dump names are there");
  parser.add_flag("--overwrite", options->overwrite, "replace the file if it is there");
  return [options](const Invocation& invocation) { return dump(*options, invocation); };
}

}  // namespace stillpoint
