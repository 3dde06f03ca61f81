// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql-dumps.hh"

#include "agent/dump-tool.hh"
#include "agent/postgresql-text.hh"
#include "common/errors.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace stillpoint::postgresql {

namespace {

/// How many later releases are tried: pg_dump reads every older server.
constexpr int later_releases = 6;

/// The first server that the extension's functions which it calls are made for.
constexpr int oldest_with_amcheck = 140000;

/// How long pg_dump waits for a table that somebody locks, or waits to lock, exclusively. Such a waiter itself waits
/// for the holder's pins, so waiting longer would be for ever.
constexpr std::chrono::milliseconds lock_wait{60000};

std::string conninfo(const Server& server, const std::string& database) {
  return fmt::format("host={} port={} user={} dbname={}", conninfo_value(server.socket_directory),
                     conninfo_value(server.port), conninfo_value(server.user), conninfo_value(database));
}

Program tool(const Server& server, std::filesystem::path program, std::vector<std::string> arguments) {
  return {std::move(program),
          std::move(arguments),
          {"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=/nonexistent", "PGAPPNAME=stillpoint"},
          server.os_user};
}

RunningDump run(const Server& server, std::filesystem::path program, std::vector<std::string> arguments) {
  return run_dump_tool(tool(server, std::move(program), std::move(arguments)));
}

}  // namespace

std::filesystem::path find_program(std::string_view name, int server_version) {
  const auto usable = [](const std::filesystem::path& path) { return ::access(path.c_str(), X_OK) == 0; };
  std::vector<std::string> releases{major_version(server_version)};
  const int first_later = server_version >= 100000 ? server_version / 10000 + 1 : 10;
  for (int release = first_later; release < first_later + later_releases; ++release)
    releases.push_back(std::to_string(release));
  for (const std::string& release : releases)
    for (const char* layout : {"/usr/lib/postgresql/{}/bin/{}", "/usr/pgsql-{}/bin/{}"})
      if (const std::filesystem::path path = fmt::format(fmt::runtime(layout), release, name); usable(path))
        return path;
  if (const std::filesystem::path path = fmt::format("/usr/bin/{}", name); usable(path)) return path;
  throw CaptureError(fmt::format("{} for PostgreSQL {} is not installed", name, major_version(server_version)),
                     fmt::format("install postgresql-client-{} in the guest", major_version(server_version)));
}

RunningDump dump_database(const Server& server, int server_version, const std::string& database,
                          const std::string& snapshot) {
  return run(server, find_program("pg_dump", server_version),
             {"--format=plain", "--no-password", "--no-unlogged-table-data",
              fmt::format("--lock-wait-timeout={}", lock_wait.count()), "--snapshot=" + snapshot,
              "--dbname=" + conninfo(server, database)});
}

RunningCheck check_database(const Server& server, int server_version, const std::string& database) {
  if (server_version < oldest_with_amcheck)
    throw NotFound(fmt::format("pg_amcheck knows no PostgreSQL {}", major_version(server_version)));
  std::filesystem::path program;
  try {
    program = find_program("pg_amcheck", server_version);
  } catch (const CaptureError& error) {
    throw NotFound(error.what(), error.hint());
  }
  return run_check_tool(tool(server, std::move(program),
                             {"--no-password", "--install-missing", "--heapallindexed", conninfo(server, database)}));
}

RunningDump dump_globals(const Server& server, int server_version) {
  return run(server, find_program("pg_dumpall", server_version),
             {"--globals-only", "--no-password", "--dbname=" + conninfo(server, server.database)});
}

std::string read_dump(RunningDump dump, std::size_t limit, const Deadline& deadline) {
  std::string text;
  std::array<char, 16384> buffer{};
  for (;;) {
    const ssize_t n = ::read(dump.output(), buffer.data(), buffer.size());
    if (n == 0) break;
    if (n > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(n));
      if (text.size() > limit) throw CaptureError(fmt::format("the dump is longer than {} bytes", limit));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) throw_errno<CaptureError>("cannot read a dump");
    if (deadline.passed()) throw CaptureError("the dump tool does not end in time");
    pollfd fd{dump.output(), POLLIN, 0};
    ::poll(&fd, 1, deadline.poll_timeout());
  }
  if (const std::string problem = dump.finish(deadline); !problem.empty()) throw CaptureError(problem);
  return text;
}

RunningDump finished_dump(const std::string& text) {
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC | O_NONBLOCK) != 0) throw_errno<CaptureError>("cannot open a pipe for a dump");
  UniqueFd output(fds[0]);
  const UniqueFd input(fds[1]);
  ::fcntl(input.get(), F_SETPIPE_SZ, static_cast<int>(finished_dump_limit));
  if (::write(input.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw CaptureError("a pipe does not take the whole dump");
  return RunningDump(std::move(output));
}

}  // namespace stillpoint::postgresql
