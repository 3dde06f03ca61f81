// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/offline-server.hh"

#include "common/deleter.hh"
#include "common/errors.hh"

#include <fmt/format.h>
#include <fts.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace stillpoint {

namespace {

namespace fs = std::filesystem;

constexpr uid_t nobody = 65534;
constexpr std::size_t most_said = 8192;
/// Of what a server or tool says, how much is shown.
constexpr std::size_t most_shown = 600;
constexpr std::chrono::milliseconds tool_interval{200};
constexpr std::chrono::seconds ready_limit{10};
constexpr std::chrono::seconds version_limit{10};

/// Where `work` is seen inside.
constexpr const char* inside = "/work";

/// Nothing that the guest's own file says is read. The rest is what crash recovery cannot do without, and what a copy
/// does not need.
constexpr std::string_view postgresql_conf = R"(listen_addresses = ''
unix_socket_directories = '/work'
data_directory = '/work/data'
hba_file = '/work/pg_hba.conf'
ident_file = '/work/pg_ident.conf'
external_pid_file = ''
shared_preload_libraries = ''
session_preload_libraries = ''
local_preload_libraries = ''
archive_mode = off
autovacuum = off
max_connections = 20
max_prepared_transactions = 1000
shared_buffers = 64MB
dynamic_shared_memory_type = mmap
huge_pages = off
jit = off
fsync = off
logging_collector = off
)";

fs::path need_bwrap() {
  fs::path path = program_on_path("bwrap");
  if (path.empty())
    throw ConfigError("there is no program bwrap, which keeps a guest's databases apart",
                      "install the package bubblewrap");
  return path;
}

/// `command` in a container of its own: `work` and the host's programs are all that it sees.
Program contained(const fs::path& work, const std::vector<std::string>& command) {
  Program program{.path = need_bwrap(), .arguments = {}, .environment = {"PATH=/usr/bin:/bin"}, .user = {}};
  program.arguments = {"--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"};
  const auto add = [&](std::initializer_list<std::string> words) {
    program.arguments.insert(program.arguments.end(), words);
  };
  add({"--setenv", "PATH", "/usr/bin:/bin", "--setenv", "LC_ALL", "C.UTF-8", "--ro-bind", "/usr", "/usr"});
  for (const char* name : {"bin", "sbin", "lib", "lib64"})
    add({"--symlink", fmt::format("usr/{}", name), fmt::format("/{}", name)});
  for (const char* path : {"/etc/ld.so.cache", "/etc/passwd", "/etc/localtime"})
    add({"--ro-bind-try", path, path});
  add({"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind", work.native(), inside, "--chdir", inside,
       "--"});
  program.arguments.insert(program.arguments.end(), command.begin(), command.end());
  if (::geteuid() == 0) program.user = OsUser{nobody, nobody, {}};
  return program;
}

std::string words_of(std::string text) {
  std::ranges::replace(text, '\n', ' ');
  while (text.ends_with(' '))
    text.pop_back();
  if (text.size() > most_shown) text.erase(0, text.size() - most_shown);
  return text;
}

/// "15" of "15.18 (Debian 15.18-0+deb12u1)", "10.11" of "10.11.19-MariaDB-0+deb12u1".
std::string release_of(std::string_view version, std::size_t parts) {
  std::string release;
  for (const char c : version) {
    if (c == '.' && --parts == 0) break;
    if (c != '.' && (c < '0' || c > '9')) break;
    release += c;
  }
  return release;
}

std::string version_said_by(const fs::path& path) {
  Pipe pipe = open_pipe("a server's version");
  RunningProgram server({.path = path, .arguments = {"--version"}, .environment = {"LC_ALL=C"}, .user = {}},
                        {.output = pipe.write_end.get(), .errors = pipe.write_end.get()});
  pipe.write_end.reset();
  Intake words(std::move(pipe.read_end), most_said, Intake::Keep::end);
  static_cast<void>(server.wait(Deadline(version_limit), {&words, 1}));
  words.take();
  const std::string& text = words.text();
  const std::size_t digit =
      text.find_first_of("0123456789", text.find(" Ver ") == std::string::npos ? 0 : text.find(" Ver "));
  return digit == std::string::npos ? "" : text.substr(digit, text.find_first_of(" \n", digit) - digit);
}

OfflinePrograms find_postgresql(const DatabaseReport& server) {
  const std::string release = release_of(server.server_version, 1);
  for (const char* layout : {"/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin"}) {
    const fs::path directory = fmt::format(fmt::runtime(layout), release);
    if (!release.empty() && ::access((directory / "postgres").c_str(), X_OK) == 0)
      return {OfflinePrograms::Engine::postgresql, directory, version_said_by(directory / "postgres")};
  }
  throw NotFound(fmt::format("this host has no PostgreSQL {}", release), fmt::format("install postgresql-{}", release));
}

OfflinePrograms find_mariadb(const DatabaseReport& server) {
  const std::string release = release_of(server.server_version, 2);
  const fs::path path = "/usr/sbin/mariadbd";
  const std::string version = ::access(path.c_str(), X_OK) == 0 ? version_said_by(path) : std::string();
  if (release.empty() || release_of(version, 2) != release)
    throw NotFound(fmt::format("this host has no MariaDB {}", release), "install mariadb-server of that release");
  return {OfflinePrograms::Engine::mariadb, "/usr/bin", version};
}

}  // namespace

OfflinePrograms find_offline_programs(const DatabaseReport& server) {
  static_cast<void>(need_bwrap());
  if (server.engine == "postgresql") return find_postgresql(server);
  if (server.engine == "mariadb") return find_mariadb(server);
  throw NotFound(fmt::format("{} is not recovered without its guest", server.engine));
}

OfflineServer::OfflineServer(OfflinePrograms programs, fs::path work)
    : programs_(std::move(programs)), work_(std::move(work)) {
  write_configuration();
  take_over_files();
  Pipe pipe = open_pipe("a database server's messages");
  server_ = RunningProgram(contained(work_, server_command()),
                           {.output = pipe.write_end.get(), .errors = pipe.write_end.get()});
  pipe.write_end.reset();
  messages_.emplace(std::move(pipe.read_end), most_said, Intake::Keep::end);
}

/// Directories and regular files are the server's from now on; whatever else a guest had there goes, but for links that
/// stay inside, which the caller has made.
void OfflineServer::take_over_files() const {
  std::string root = work_.native();
  std::array<char*, 2> paths{root.data(), nullptr};
  const CPtr<FTS, ::fts_close> tree(::fts_open(paths.data(), FTS_PHYSICAL | FTS_NOCHDIR, nullptr));
  if (!tree) throw_errno<CaptureError>(fmt::format("cannot read {}", work_.native()));
  const uid_t owner = ::geteuid() == 0 ? nobody : ::geteuid();
  while (const FTSENT* entry = ::fts_read(tree.get())) {
    bool good = true;
    if (entry->fts_info == FTS_DP) continue;
    if (entry->fts_info == FTS_D)
      good = ::chmod(entry->fts_accpath, 0700) == 0;
    else if (entry->fts_info == FTS_F && S_ISREG(entry->fts_statp->st_mode))
      good = ::chmod(entry->fts_accpath, 0600) == 0;
    else if (entry->fts_info == FTS_SL || entry->fts_info == FTS_SLNONE)
      good = std::string_view(fs::read_symlink(entry->fts_accpath).native()).starts_with("/work/") ||
             ::unlink(entry->fts_accpath) == 0;
    else
      good = entry->fts_info == FTS_DEFAULT && ::unlink(entry->fts_accpath) == 0;
    if (good && entry->fts_info != FTS_DEFAULT)
      good = ::lchown(entry->fts_accpath, owner, ::geteuid() == 0 ? nobody : static_cast<gid_t>(-1)) == 0 ||
             errno == ENOENT;
    if (!good) throw_errno<CaptureError>(fmt::format("cannot take over {}", entry->fts_path));
  }
}

void OfflineServer::write_configuration() const {
  std::error_code ignored;
  if (programs_.engine == OfflinePrograms::Engine::mariadb) return;
  // Of a server that ran, and of a standby, which would wait for its primary.
  for (const char* name : {"postmaster.pid", "postmaster.opts", "standby.signal", "recovery.signal"})
    fs::remove(work_ / "data" / name, ignored);
  // That one is always read.
  replace_file(work_ / "data/postgresql.auto.conf", "", 0600);
  replace_file(work_ / "postgresql.conf", std::string(postgresql_conf), 0600);
  replace_file(work_ / "pg_hba.conf", "local all all trust\n", 0600);
  replace_file(work_ / "pg_ident.conf", "", 0600);
}

std::string OfflineServer::program(const char* name) const {
  return programs_.directory / name;
}

std::string OfflineServer::conninfo(const std::string& database) const {
  std::string quoted;
  for (const char c : database) {
    if (c == '\'' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return fmt::format("host={} user=postgres dbname='{}'", inside, quoted);
}

std::vector<std::string> OfflineServer::server_command() const {
  if (programs_.engine == OfflinePrograms::Engine::postgresql)
    return {program("postgres"), "-c", fmt::format("config_file={}/postgresql.conf", inside)};
  // Without the grants: nobody knows the guest's passwords, and no function of a library is loaded.
  return {"/usr/sbin/mariadbd",
          "--no-defaults",
          fmt::format("--datadir={}/data", inside),
          fmt::format("--socket={}/socket", inside),
          fmt::format("--pid-file={}/pid", inside),
          "--tmpdir=/tmp",
          "--lc-messages-dir=/usr/share/mysql",
          "--skip-networking",
          "--skip-grant-tables",
          "--skip-log-bin",
          "--skip-slave-start",
          "--event-scheduler=DISABLED",
          "--secure-file-priv=/tmp",
          "--innodb-flush-log-at-trx-commit=0"};
}

std::vector<std::string> OfflineServer::ready_command() const {
  if (programs_.engine == OfflinePrograms::Engine::postgresql) return {program("pg_isready"), "-q", "-h", inside};
  return {program("mariadb"), "--no-defaults", fmt::format("--socket={}/socket", inside), "-e", "SELECT 1"};
}

void OfflineServer::await(const Deadline& deadline, const std::stop_token& stop) {
  for (;;) {
    if (server_.wait(Deadline(tool_interval), {&*messages_, 1}))
      throw CaptureError(fmt::format("the server has ended: {}", words_of(messages_->text())));
    if (run(
            ready_command(), [](std::span<const std::byte>) {}, deadline.at_most(ready_limit), stop)
            .empty())
      return;
    if (deadline.passed())
      throw CaptureError(fmt::format("the server does not answer in time: {}", words_of(messages_->text())));
  }
}

std::string OfflineServer::run(const std::vector<std::string>& command, const Take& take, const Deadline& deadline,
                               const std::stop_token& stop) const {
  Pipe output = open_pipe("a database's tool");
  Pipe errors = open_pipe("a database's tool");
  RunningProgram tool(contained(work_, command), {.output = output.write_end.get(), .errors = errors.write_end.get()});
  output.write_end.reset();
  errors.write_end.reset();
  Intake words(std::move(errors.read_end), most_said, Intake::Keep::end);
  std::vector<std::byte> buffer(std::size_t{64} << 10);
  for (;;) {
    if (stop.stop_requested()) throw Interrupted("stopped while a database was read");
    if (deadline.passed()) return "it was not over in time";
    words.take();
    pollfd ready{output.read_end.get(), POLLIN, 0};
    if (::poll(&ready, 1, deadline.poll_timeout(tool_interval)) <= 0) continue;
    const ssize_t got = ::read(output.read_end.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    take(std::span(buffer).first(static_cast<std::size_t>(got)));
  }
  if (!tool.wait(deadline.at_most(ready_limit), {&words, 1})) return "it was not over in time";
  const std::string failure = describe_status(tool.end_group());
  words.take();
  if (failure.empty()) return {};
  return fmt::format("{}: {}", failure, words_of(words.text()));
}

std::string OfflineServer::dump(const DatabaseReport& database, const Take& take, const Deadline& deadline,
                                const std::stop_token& stop) {
  std::vector<std::string> command;
  if (programs_.engine == OfflinePrograms::Engine::mariadb) {
    command = {program("mariadb-dump"), "--no-defaults", "--protocol=socket",
               fmt::format("--socket={}/socket", inside)};
    for (const char* option : {"--default-character-set=utf8mb4", "--max-allowed-packet=1G", "--single-transaction",
                               "--skip-lock-tables", "--quick", "--hex-blob", "--skip-dump-date", "--no-tablespaces",
                               "--order-by-primary", "--routines", "--triggers", "--events", "--"})
      command.emplace_back(option);
    command.push_back(database.database);
  } else if (database.database.empty()) {
    command = {program("pg_dumpall"), "--globals-only", "--no-password", "--dbname=" + conninfo("template1")};
  } else {
    command = {program("pg_dump"), "--format=plain", "--no-password", "--no-unlogged-table-data",
               "--dbname=" + conninfo(database.database)};
  }
  return run(command, take, deadline, stop);
}

std::string OfflineServer::check(const DatabaseReport& database, std::string& tool, std::string& findings,
                                 const Deadline& deadline, const std::stop_token& stop) {
  std::vector<std::string> command;
  if (programs_.engine == OfflinePrograms::Engine::mariadb)
    command = {program("mariadb-check"),
               "--no-defaults",
               "--protocol=socket",
               fmt::format("--socket={}/socket", inside),
               "--check",
               "--silent",
               "--databases",
               "--",
               database.database};
  else
    command = {program("pg_amcheck"), "--no-password", "--install-missing", "--heapallindexed",
               conninfo(database.database)};
  tool = fs::path(command.front()).filename();
  return run(
      command,
      [&](std::span<const std::byte> bytes) {
        findings += as_text(bytes.first(std::min(bytes.size(), most_said - findings.size())));
      },
      deadline, stop);
}

}  // namespace stillpoint
