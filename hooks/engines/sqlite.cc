// SPDX-License-Identifier: LGPL-2.1-or-later
// Plug-in of stillpoint-agent for SQLite (docs/engines.md has the contract).
//
// Its configuration names the databases: an absolute path or a pattern (glob(7)) a line. Each has a process of its own
// from the freeze on, with its owner's rights: it holds the writers, then the database snapshot, and answers on a
// socket in the plug-in's directory.

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/json.hh"
#include "common/program.hh"
#include "hooks/engines/sqlite-database.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <glob.h>
#include <grp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace stillpoint;

namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr int not_here = 77;
constexpr int lifeline = 3;
constexpr std::size_t max_config = std::size_t{64} << 10;
constexpr std::size_t most_databases = 64;
/// Of a freeze's time: for the answers to come together.
constexpr milliseconds answer_reserve{200};
/// In place of a dump's length.
constexpr std::uint64_t no_copy = UINT64_MAX;
/// For a holder to answer a thaw.
constexpr milliseconds thaw_limit{2000};

std::string setting(const char* name, std::string_view fallback = {}) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : std::string(fallback);
}

milliseconds time_setting(const char* name) {
  const std::string text = setting(name);
  std::int64_t number = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc() || number < 0)
    throw UsageError(fmt::format("{} is not a number of milliseconds", name));
  return milliseconds(number);
}

fs::path directory() {
  return setting("STILLPOINT_DIRECTORY");
}

/// The files that there are now, each once.
std::vector<fs::path> find_databases() {
  const fs::path config = setting("STILLPOINT_CONFIG");
  std::set<fs::path> found;
  if (!fs::exists(config)) return {};
  std::istringstream lines(read_text(config, max_config));
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.starts_with('#')) continue;
    if (!line.starts_with('/'))
      throw ConfigError(fmt::format("{}: '{}' is not an absolute path", config.native(), line));
    glob_t matches{};
    const int result = ::glob(line.c_str(), GLOB_ERR, nullptr, &matches);
    for (std::size_t i = 0; result == 0 && i < matches.gl_pathc; ++i)
      if (fs::is_regular_file(matches.gl_pathv[i])) found.insert(fs::canonical(matches.gl_pathv[i]));
    ::globfree(&matches);
    if (result != 0 && result != GLOB_NOMATCH)
      throw ConfigError(fmt::format("{}: '{}' cannot be looked up", config.native(), line));
  }
  if (found.size() > most_databases)
    throw ConfigError(fmt::format("{} names more than {} databases", config.native(), most_databases));
  return {found.begin(), found.end()};
}

sockaddr_un address_of(const fs::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.native().size() >= sizeof address.sun_path) throw UsageError(path.native() + " is too long for a socket");
  path.native().copy(address.sun_path, path.native().size());
  return address;
}

/// Where the holder of the database with that number listens.
fs::path socket_path(std::size_t number) {
  return directory() / std::to_string(number);
}

UniqueFd listen_at(const fs::path& path) {
  const sockaddr_un address = address_of(path);
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): how the sockets interface is
  if (!fd || ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd.get(), 4) != 0)
    throw_errno<QuiesceError>(path.native());
  return fd;
}

/// Sends one letter to a holder. Throws CaptureError.
UniqueFd ask_holder(std::size_t number, char request) {
  const sockaddr_un address = address_of(socket_path(number));
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): how the sockets interface is
  if (!fd || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::write(fd.get(), &request, 1) != 1)
    throw_errno<CaptureError>("the process that holds the database does not answer");
  return fd;
}

/// All that comes until the end, or the deadline.
std::string read_all(int fd, const Deadline& deadline) {
  std::string text;
  std::array<char, 4096> buffer{};
  for (;;) {
    pollfd poll{fd, POLLIN, 0};
    if (::poll(&poll, 1, deadline.poll_timeout()) <= 0) return text;
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n <= 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(n));
  }
}

/// A database belongs to whom it belongs: what is in it gets no other rights.
void become_owner(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) throw_errno<QuiesceError>(path.native());
  if (::geteuid() != 0 || status.st_uid == 0) return;
  if (::setgroups(0, nullptr) != 0 || ::setresgid(status.st_gid, status.st_gid, status.st_gid) != 0 ||
      ::setresuid(status.st_uid, status.st_uid, status.st_uid) != 0)
    throw_errno<QuiesceError>("cannot become the owner of " + path.native());
}

Json described(const fs::path& path, std::string_view exactness, const std::string& reason = {}) {
  Json database{{"database", path.native()}, {"server_version", sqlite3_libversion()}, {"exactness", exactness}};
  if (!reason.empty()) database["reason"] = reason.substr(0, 1000);
  return database;
}

/// Its length, then its bytes; no length, then why there is none.
void send_copy(int connection, sqlite::Database& database) {
  sqlite::Copy copy;
  std::uint64_t size = no_copy;
  std::string failure;
  try {
    copy = database.copy();
    size = copy.bytes;
  } catch (const Error& e) {
    failure = e.what();
  }
  write_all(connection, std::as_bytes(std::span(&size, 1)), "a dump");
  if (size == no_copy) return write_all(connection, as_bytes(failure), "an answer");
  off_t offset = 0;
  while (static_cast<std::size_t>(offset) < copy.bytes)
    if (::sendfile(connection, copy.file.get(), &offset, copy.bytes - static_cast<std::size_t>(offset)) <= 0)
      throw_errno<CaptureError>("a dump");
}

/// Nobody waits any more: what follows has the share of an ordinary process.
void let_go(sqlite::Database& database) {
  database.release();
  static_cast<void>(::setpriority(PRIO_PROCESS, 0, 0));
}

/// Answers until the still point is over, or nobody is there any more to say so.
void serve(int listener, const fs::path& path, sqlite::Database& database, const Deadline& held_until) {
  bool held = true;
  bool expired = false;
  for (;;) {
    std::array<pollfd, 2> fds{{{listener, POLLIN, 0}, {lifeline, POLLIN, 0}}};
    ::poll(fds.data(), fds.size(), held ? held_until.poll_timeout() : -1);
    if ((fds[1].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) return;
    if (held && held_until.passed()) {
      let_go(database);
      held = false;
      expired = true;
    }
    if ((fds[0].revents & POLLIN) == 0) continue;
    const UniqueFd connection(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    char request = 0;
    if (!connection || ::read(connection.get(), &request, 1) != 1) continue;
    if (request == 'e') return;
    let_go(database);
    held = false;
    try {
      if (request == 'd') send_copy(connection.get(), database);
      const std::string answer =
          expired ? dump_json(described(path, "skewed", "its writers went on before the thaw")) : "{}";
      if (request == 't') write_all(connection.get(), as_bytes(answer), "an answer");
    } catch (const Error&) {
      // Whoever asked is gone.
    }
  }
}

/// The life of a holder. The first thing that it says, to `verdict`, is what it holds.
[[noreturn]] void hold(const fs::path& path, UniqueFd listener, UniqueFd verdict, const Deadline& deadline,
                       const Deadline& held_until) {
  const bool for_dump = setting("STILLPOINT_DUMPS") == "1";
  try {
    // Whoever reads what the plug-in says need not wait for this one.
    const UniqueFd nothing = open_file("/dev/null", O_WRONLY);
    for (const int fd : {STDOUT_FILENO, STDERR_FILENO})
      if (::dup2(nothing.get(), fd) < 0) throw_errno<QuiesceError>("dup2");
    become_owner(path);
    sqlite::Database database(path, for_dump, setting("STILLPOINT_TEST_NO_BARRIER").empty(), deadline);
    Json said = described(path, database.skew().empty() ? "exact" : "skewed", database.skew());
    said["mode"] = database.is_wal() ? "wal-snapshot" : "read-inside";
    said["position"] = {{"pages", database.pages()}};
    said["dump"] = for_dump;
    write_all(verdict.get(), as_bytes(dump_json(said)), "an answer");
    verdict.reset();
    serve(listener.get(), path, database, held_until);
  } catch (const std::exception& e) {
    if (verdict) write_all(verdict.get(), as_bytes(dump_json(described(path, "failed", e.what()))), "an answer");
  }
  // Connections that are not closed cost nothing; closing the last one would write.
  ::_exit(0);
}

int prepare() {
  Json databases = Json::array();
  std::string list;
  for (const fs::path& path : find_databases()) {
    databases.push_back({{"database", path.native()}});
    list += path.native() + '\0';
  }
  replace_file(directory() / "databases", list, 0600);
  std::cout << dump_json({{"databases", std::move(databases)}}) << std::endl;
  return 0;
}

/// As prepare() found them, so that a number means the same database in every call.
std::vector<fs::path> prepared_databases() {
  std::vector<fs::path> paths;
  std::istringstream list(read_text(directory() / "databases", std::size_t{1} << 20));
  for (std::string path; std::getline(list, path, '\0');)
    paths.emplace_back(path);
  return paths;
}

int freeze() {
  const milliseconds limit = time_setting("STILLPOINT_DEADLINE_MS");
  const Deadline answer_by(limit - std::min(limit / 2, answer_reserve));
  const Deadline lock_by(limit / 2);
  const Deadline held_until(time_setting("STILLPOINT_HOLD_MS"));
  const std::vector<fs::path> paths = prepared_databases();
  std::vector<UniqueFd> verdicts;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    UniqueFd listener = listen_at(socket_path(i));
    Pipe pipe = open_pipe("a holder's answer");
    UniqueFd verdict = std::move(pipe.write_end);
    verdicts.push_back(std::move(pipe.read_end));
    const pid_t pid = ::fork();
    if (pid < 0) throw_errno<QuiesceError>("fork");
    if (pid == 0) hold(paths[i], std::move(listener), std::move(verdict), lock_by, held_until);
  }
  Json databases = Json::array();
  for (std::size_t i = 0; i < paths.size(); ++i) {
    const std::string said = read_all(verdicts[i].get(), answer_by);
    databases.push_back(said.empty() ? described(paths[i], "failed", "it does not answer in time")
                                     : parse_json(said, "a holder's answer"));
  }
  std::cout << dump_json({{"databases", std::move(databases)}}) << std::endl;
  return 0;
}

int thaw() {
  const std::vector<fs::path> paths = prepared_databases();
  std::vector<UniqueFd> holders(paths.size());
  Json lowered = Json::array();
  const auto lost = [&](std::size_t i, const char* why) { lowered.push_back(described(paths[i], "skewed", why)); };
  // All are let go before one is waited for.
  for (std::size_t i = 0; i < paths.size(); ++i)
    try {
      holders[i] = ask_holder(i, 't');
    } catch (const Error& e) {
      lost(i, e.what());
    }
  const Deadline deadline(thaw_limit);
  for (std::size_t i = 0; i < paths.size(); ++i) {
    if (!holders[i]) continue;
    const std::string said = read_all(holders[i].get(), deadline);
    if (said.empty())
      lost(i, "its writers were not let go in time");
    else if (said != "{}")
      lowered.push_back(parse_json(said, "a holder's answer"));
  }
  std::cout << dump_json({{"databases", std::move(lowered)}}) << std::endl;
  return 0;
}

int dump() {
  const std::vector<fs::path> paths = prepared_databases();
  const auto path = std::find(paths.begin(), paths.end(), fs::path(setting("STILLPOINT_DATABASE")));
  if (path == paths.end()) throw NotFound("there is no such database");
  const UniqueFd holder = ask_holder(static_cast<std::size_t>(path - paths.begin()), 'd');
  std::uint64_t left = 0;
  if (::recv(holder.get(), &left, sizeof left, MSG_WAITALL) != static_cast<ssize_t>(sizeof left))
    throw CaptureError("the process that holds the database is gone");
  if (left == no_copy) throw CaptureError(read_all(holder.get(), Deadline(thaw_limit)));
  std::vector<std::byte> buffer(std::size_t{256} << 10);
  while (left > 0) {
    const ssize_t n = ::read(holder.get(), buffer.data(), buffer.size());
    if (n <= 0) throw CaptureError("the copy ends too early");
    write_all(STDOUT_FILENO, std::span(buffer).first(static_cast<std::size_t>(n)), "the dump");
    left -= std::min(left, static_cast<std::uint64_t>(n));
  }
  return 0;
}

int abort_all() {
  for (std::size_t i = 0; fs::exists(socket_path(i)); ++i)
    try {
      static_cast<void>(ask_holder(i, 'e'));
    } catch (const Error&) {
      // Gone already.
    }
  std::cout << "{}" << std::endl;
  return 0;
}

int run(std::string_view verb) {
  ::signal(SIGPIPE, SIG_IGN);
  if (verb == "probe") {
    if (find_databases().empty()) return not_here;
    std::cout << R"({"engine":"sqlite"})" << std::endl;
    return 0;
  }
  if (verb == "prepare") return prepare();
  if (verb == "freeze") return freeze();
  if (verb == "thaw") return thaw();
  if (verb == "dump") return dump();
  if (verb == "abort") return abort_all();
  throw UsageError("usage: sqlite probe|prepare|freeze|thaw|dump|abort");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc == 2 ? argv[1] : "");
  } catch (const std::exception& e) {
    std::cerr << e.what() << std::endl;
    return 1;
  }
}
