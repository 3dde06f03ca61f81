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
/// With the entry for the others as many as the agent takes; together, whatever they say, no more than it reads.
constexpr std::size_t most_databases = 63;
constexpr std::size_t longest_name = 300;
constexpr std::size_t longest_reason = 150;
constexpr std::size_t longest_answer = 1000;
/// Of a freeze's time: for the answers to come together.
constexpr milliseconds answer_reserve{200};
/// In place of a dump's length.
constexpr std::uint64_t no_copy = UINT64_MAX;
/// For a holder to answer a thaw.
constexpr milliseconds thaw_limit{2000};
/// Of what all holders together read while writers wait: it stays in memory.
constexpr std::int64_t most_bytes_held = std::int64_t{256} << 20;
/// Of a holder: what it reads is somebody else's.
constexpr std::int64_t heap_limit = std::int64_t{256} << 20;

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

struct Found {
  std::vector<fs::path> databases;  ///< in the configuration's order
  std::string left_out;             ///< of what it names too, how many and why; empty when there are none
};

/// In JSON no longer than planned for, and still the name that it was.
bool can_be_named(const fs::path& path) {
  const std::string name = dump_json(path.native());
  return name.size() <= longest_name && name.find("\uFFFD") == std::string::npos;
}

/// The files that there are now, each once.
Found find_databases() {
  const fs::path config = setting("STILLPOINT_CONFIG");
  std::set<fs::path> seen;
  std::size_t left_out = 0;
  Found found;
  if (!fs::exists(config)) return found;
  std::istringstream lines(read_text(config, max_config));
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.starts_with('#')) continue;
    if (!line.starts_with('/'))
      throw ConfigError(fmt::format("{}: '{}' is not an absolute path", config.native(), line));
    glob_t matches{};
    const int result = ::glob(line.c_str(), 0, nullptr, &matches);
    for (std::size_t i = 0; result == 0 && i < matches.gl_pathc; ++i) {
      // What cannot be looked at is somebody's who keeps it from us, or not on a disk of ours.
      std::error_code error;
      const fs::path path = fs::canonical(matches.gl_pathv[i], error);
      if (error || !fs::is_regular_file(path, error) || !seen.insert(path).second) continue;
      if (found.databases.size() < most_databases && can_be_named(path))
        found.databases.push_back(path);
      else if (++left_out; left_out == 1)
        found.left_out = path.native().substr(0, longest_reason / 2);
    }
    ::globfree(&matches);
    if (result != 0 && result != GLOB_NOMATCH)
      throw ConfigError(fmt::format("{}: '{}' cannot be looked up", config.native(), line));
  }
  if (left_out != 0)
    found.left_out = fmt::format("{} with an unusable name, or too many, like {}", left_out, found.left_out);
  return found;
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

/// What comes until the end, or the deadline: nothing beyond what an answer may have.
std::string read_all(int fd, const Deadline& deadline) {
  std::string text;
  std::array<char, longest_answer> buffer{};
  while (text.size() < longest_answer) {
    pollfd poll{fd, POLLIN, 0};
    if (::poll(&poll, 1, deadline.poll_timeout()) <= 0) break;
    const ssize_t n = ::read(fd, buffer.data(), longest_answer - text.size());
    if (n <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(n));
  }
  return text;
}

/// Somebody else could put another file in its place, or his own journal beside it. Throws QuiesceError.
void must_be_roots_alone(fs::path path) {
  for (;; path = path.parent_path()) {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0) throw_errno<QuiesceError>(path.native());
    if (status.st_uid != 0 || (status.st_mode & (S_IWGRP | S_IWOTH)) != 0)
      throw QuiesceError("it is root's, but others than root can write to " + path.native());
    if (path == path.root_path()) return;
  }
}

/// A database belongs to whom it belongs: what is in it gets no other rights.
void become_owner(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) throw_errno<QuiesceError>(path.native());
  if (::geteuid() != 0) return;
  if (status.st_uid == 0) return must_be_roots_alone(path);
  if (::setgroups(0, nullptr) != 0 || ::setresgid(status.st_gid, status.st_gid, status.st_gid) != 0 ||
      ::setresuid(status.st_uid, status.st_uid, status.st_uid) != 0)
    throw_errno<QuiesceError>("cannot become the owner of " + path.native());
}

Json described(const fs::path& path, std::string_view exactness, const std::string& reason = {}) {
  Json database{{"database", path.native()}, {"server_version", sqlite3_libversion()}, {"exactness", exactness}};
  // Each byte that is not UTF-8 becomes three.
  if (!reason.empty()) database["reason"] = reason.substr(0, longest_reason);
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

/// Answers until the still point is over, or nobody is there any more to say so. Its connections are not closed then:
/// the file system may still be frozen.
[[noreturn]] void serve(int listener, const fs::path& path, sqlite::Database& database, const Deadline& held_until) {
  bool held = true;
  bool expired = false;
  for (;;) {
    std::array<pollfd, 2> fds{{{listener, POLLIN, 0}, {lifeline, POLLIN, 0}}};
    ::poll(fds.data(), fds.size(), held ? held_until.poll_timeout() : -1);
    if ((fds[1].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) ::_exit(0);
    if (held && held_until.passed()) {
      let_go(database);
      held = false;
      expired = true;
    }
    if ((fds[0].revents & POLLIN) == 0) continue;
    const UniqueFd connection(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    char request = 0;
    if (!connection || ::read(connection.get(), &request, 1) != 1) continue;
    if (request == 'e') ::_exit(0);
    let_go(database);
    held = false;
    try {
      if (request == 'd') send_copy(connection.get(), database);
      const std::string answer =
          expired ? dump_json(described(path, "skewed", "its writers went on before the thaw")) : "{}";
      if (request == 't') write_all(connection.get(), as_bytes(answer), "an answer");
    } catch (const std::exception&) {
      // Whoever asked is gone.
    }
  }
}

/// The life of a holder. The first thing that it says, to `verdict`, is what it holds.
[[noreturn]] void hold(const fs::path& path, bool read_inside, UniqueFd listener, UniqueFd verdict,
                       const Deadline& deadline, const Deadline& held_until) {
  const bool for_dump = setting("STILLPOINT_DUMPS") == "1";
  try {
    // Whoever reads what the plug-in says need not wait for this one.
    const UniqueFd nothing = open_file("/dev/null", O_WRONLY);
    for (const int fd : {STDOUT_FILENO, STDERR_FILENO})
      if (::dup2(nothing.get(), fd) < 0) throw_errno<QuiesceError>("dup2");
    become_owner(path);
    sqlite3_hard_heap_limit64(heap_limit);
    const bool hold_writers = setting("STILLPOINT_TEST_NO_BARRIER").empty();
    sqlite::Database database(path, for_dump, hold_writers, read_inside, deadline);
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
  ::_exit(0);
}

int prepare() {
  Json databases = Json::array();
  std::string list;
  const Found found = find_databases();
  for (const fs::path& path : found.databases) {
    databases.push_back({{"database", path.native()}});
    list += path.native() + '\0';
  }
  if (!found.left_out.empty()) databases.push_back(described("others", "failed", found.left_out));
  replace_file(directory() / "databases", list, 0600);
  replace_file(directory() / "left-out", found.left_out, 0600);
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

struct Holder {
  pid_t pid;
  UniqueFd verdict;
};

/// What it says it says with its owner's rights, after it has read what others wrote.
Json verdict_of(const Holder& holder, const fs::path& path, const Deadline& deadline) {
  try {
    const std::string said = read_all(holder.verdict.get(), deadline);
    if (said.empty()) throw ProtocolError("it does not answer in time");
    Json database = parse_json(said, "its answer");
    database["database"] = path.native();
    return database;
  } catch (const std::exception& e) {
    ::kill(holder.pid, SIGKILL);
    return described(path, "failed", e.what());
  }
}

int freeze() {
  const milliseconds limit = time_setting("STILLPOINT_DEADLINE_MS");
  const Deadline answer_by(limit - std::min(limit / 2, answer_reserve));
  const Deadline lock_by(limit / 2);
  const Deadline held_until(time_setting("STILLPOINT_HOLD_MS"));
  const std::vector<fs::path> paths = prepared_databases();
  std::vector<Holder> holders;
  std::int64_t left = most_bytes_held;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    std::error_code unknown;
    const auto size = static_cast<std::int64_t>(fs::file_size(paths[i], unknown));
    const bool read_inside = !unknown && size <= std::min(left, sqlite::most_bytes_inside);
    if (read_inside) left -= size;
    UniqueFd listener = listen_at(socket_path(i));
    Pipe pipe = open_pipe("a holder's answer");
    UniqueFd verdict = std::move(pipe.write_end);
    const pid_t pid = ::fork();
    if (pid < 0) throw_errno<QuiesceError>("fork");
    if (pid == 0) hold(paths[i], read_inside, std::move(listener), std::move(verdict), lock_by, held_until);
    holders.push_back({pid, std::move(pipe.read_end)});
  }
  Json databases = Json::array();
  for (std::size_t i = 0; i < paths.size(); ++i)
    databases.push_back(verdict_of(holders[i], paths[i], answer_by));
  const std::string left_out = read_text(directory() / "left-out", max_config);
  if (!left_out.empty()) databases.push_back(described("others", "failed", left_out));
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
    if (const Found found = find_databases(); found.databases.empty() && found.left_out.empty()) return not_here;
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
