// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/dump-loader.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/text.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <utility>

namespace stillpoint {

namespace {

constexpr std::size_t most_text = 64 << 10;
constexpr std::size_t most_answer = 4 << 20;
constexpr std::chrono::seconds answer_limit{60};
constexpr std::chrono::milliseconds look_interval{200};

Program client(std::initializer_list<const char*> names, std::vector<std::string> arguments) {
  for (const char* name : names)
    if (const std::filesystem::path path = program_on_path(name); !path.empty())
      return {.path = path, .arguments = std::move(arguments), .environment = own_environment(), .user = {}};
  throw ConfigError(fmt::format("there is no program {} to load a dump with", *names.begin()),
                    "install the database's client, or write the dump to a file with --to");
}

/// The line that says why a client has ended: the first error, which is what it stops at, or the last words.
std::string reason_in(std::string_view text, int status) {
  std::string_view last;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.find("ERROR") != std::string_view::npos || line.find("FATAL") != std::string_view::npos ||
        line.find("error:") != std::string_view::npos)
      return printable(line);
    if (!line.empty()) last = line;
  }
  return last.empty() ? describe_status(status) : printable(last);
}

/// Runs the client to its end for what it prints.
std::string ask(const Program& program) {
  try {
    Pipe output = open_pipe("a database's client");
    Pipe errors = open_pipe("a database's client");
    RunningProgram running(program, {.output = output.write_end.get(), .errors = errors.write_end.get()});
    output.write_end.reset();
    errors.write_end.reset();
    std::array<Intake, 2> intakes{Intake(std::move(output.read_end), most_answer, Intake::Keep::all),
                                  Intake(std::move(errors.read_end), most_text, Intake::Keep::end)};
    if (!running.wait(Deadline(answer_limit), intakes))
      throw Unreachable(fmt::format("the database does not answer within {} s", answer_limit.count()));
    if (running.status() != 0)
      throw Unreachable(fmt::format("the database cannot be used: {}", reason_in(intakes[1].text(), running.status())));
    return intakes[0].text();
  } catch (const CaptureError& error) {
    throw Unreachable(error.what(), error.hint());
  }
}

std::uint64_t number_in(const std::string& text) {
  std::uint64_t number = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc())
    throw Unreachable("the database's client answers something else than a number");
  return number;
}

/// As a string of SQL that means the same to every server.
std::string literal(std::string_view text) {
  std::string hex;
  for (const char c : text)
    hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return hex;
}

class PostgreSql : public DumpDestination {
 public:
  explicit PostgreSql(std::string target) : target_(std::move(target)) {}

  std::uint64_t tables(const std::vector<std::string>& names) override {
    std::string query =
        "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname <> 'information_schema' "
        "AND n.nspname !~ '^pg_' AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = c.oid "
        "AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e')";
    if (!names.empty()) query += " AND (false";
    for (const std::string& name : names)
      query += fmt::format(
          " OR pg_catalog.convert_from('\\x{}', 'UTF8') IN (c.relname, pg_catalog.concat(n.nspname, '.', c.relname))",
          literal(name));
    if (!names.empty()) query += ")";
    return number_in(ask(psql({"--tuples-only", "--no-align", "--command", query})));
  }

  std::set<std::string> roles() override {
    const std::string text =
        ask(psql({"--tuples-only", "--no-align", "--command", "SELECT rolname FROM pg_catalog.pg_roles"}));
    std::set<std::string> names;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find('\n', at), text.size());
      names.insert(text.substr(at, end - at));
      at = end + 1;
    }
    return names;
  }

  std::unique_ptr<DumpLoading> load(std::stop_token stop) override {
    // A client that does not know the command ends here.
    return std::make_unique<DumpLoading>(psql({"--set", "ON_ERROR_STOP=1", "--output", "/dev/null", "--file", "-"}),
                                         fmt::format("\\restrict {}\nBEGIN;\n", random_id()), "\nCOMMIT;\n",
                                         "the database is as it was", std::move(stop));
  }

 private:
  [[nodiscard]] Program psql(std::vector<std::string> arguments) const {
    std::vector<std::string> all{"--no-psqlrc", "--quiet", "--no-password", "--dbname", target_};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return client({"psql"}, std::move(all));
  }

  std::string target_;
};

class MySql : public DumpDestination {
 public:
  explicit MySql(std::string target) : target_(std::move(target)) {}

  std::uint64_t tables(const std::vector<std::string>& names) override {
    std::string query = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()";
    if (!names.empty()) query += " AND (FALSE";
    for (const std::string& name : names)
      query += fmt::format(" OR table_name = CONVERT(X'{}' USING utf8mb4)", literal(name));
    if (!names.empty()) query += ")";
    return number_in(ask(mysql({"--skip-column-names", "--execute", query})));
  }

  std::unique_ptr<DumpLoading> load(std::stop_token stop) override {
    return std::make_unique<DumpLoading>(
        mysql({"--sandbox", "--local-infile=0", "--binary-mode", "--skip-force"}), "", "",
        "what was loaded before stays: create the database anew before you try again", std::move(stop));
  }

 private:
  [[nodiscard]] Program mysql(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"--batch", "--default-character-set=utf8mb4", "--max-allowed-packet=1G"});
    arguments.push_back("--database=" + target_);
    return client({"mariadb", "mysql"}, std::move(arguments));
  }

  std::string target_;
};

}  // namespace

DumpLoading::DumpLoading(const Program& client, std::string_view first, std::string last, std::string on_failure,
                         std::stop_token stop)
    : last_(std::move(last)), on_failure_(std::move(on_failure)), stop_(std::move(stop)) {
  try {
    Pipe input = open_pipe("a database's client");
    Pipe messages = open_pipe("a database's client");
    program_ = RunningProgram(
        client,
        {.output = messages.write_end.get(), .errors = messages.write_end.get(), .input = input.read_end.get()});
    input_ = std::move(input.write_end);
    messages_.emplace(std::move(messages.read_end), most_text, Intake::Keep::end);
  } catch (const CaptureError& error) {
    throw Unreachable(error.what(), error.hint());
  }
  ::fcntl(input_.get(), F_SETFL, O_NONBLOCK);
  write(as_bytes(first));
}

/// Takes what the client says, too: it must not wait for us while we wait for it.
bool DumpLoading::ended() {
  return program_.wait(Deadline(std::chrono::milliseconds(0)), {&*messages_, 1});
}

void DumpLoading::throw_ended() {
  throw StorageError(fmt::format("the dump is not loaded: {}", reason_in(messages_->text(), program_.status())),
                     on_failure_);
}

void DumpLoading::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (stop_.stop_requested()) throw Interrupted("stopped while a dump was loaded");
    const ssize_t n = ::write(input_.get(), bytes.data(), bytes.size());
    if (n > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      continue;
    }
    if (errno != EAGAIN && errno != EINTR) {
      static_cast<void>(program_.wait(Deadline(answer_limit), {&*messages_, 1}));
      throw_ended();
    }
    pollfd writable{input_.get(), POLLOUT, 0};
    ::poll(&writable, 1, static_cast<int>(look_interval.count()));
    if (ended()) throw_ended();
  }
}

void DumpLoading::finish() {
  write(as_bytes(last_));
  input_.reset();
  // Indexes may be built for hours.
  while (!program_.wait(Deadline(look_interval), {&*messages_, 1}))
    if (stop_.stop_requested()) throw Interrupted("stopped while a dump was loaded");
  if (program_.status() != 0) throw_ended();
}

std::unique_ptr<DumpDestination> postgresql_destination(std::string target) {
  return std::make_unique<PostgreSql>(std::move(target));
}

std::unique_ptr<DumpDestination> mysql_destination(std::string target) {
  return std::make_unique<MySql>(std::move(target));
}

}  // namespace stillpoint
