// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql.hh"

#include "agent/listening-sockets.hh"
#include "agent/postgresql-engine.hh"
#include "agent/postgresql-text.hh"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

namespace stillpoint {

namespace {

using namespace postgresql;

/// For one server to say who it is.
constexpr std::chrono::milliseconds server_limit{2000};
constexpr int oldest_version = 90600;

using Directory = CPtr<DIR, closedir>;

struct Socket {
  std::string directory;
  std::string port;
  std::string untrusted;  ///< why it is left alone; empty when it is not
};

/// Every socket of a PostgreSQL server in these directories and, where all are searched, of any other that listens;
/// each once however many names lead to it. `lost` gets those whose name leads nowhere.
std::vector<Socket> find_sockets(const AgentConfig::PostgreSql& config, std::vector<ListeningSocket>& lost) {
  std::vector<Socket> sockets;
  std::set<std::pair<dev_t, ino_t>> seen;
  for (const std::string& path : config.socket_directories) {
    const Directory directory(::opendir(path.c_str()));
    if (!directory) continue;
    while (const dirent* entry = ::readdir(directory.get())) {
      const std::string_view port = socket_port(entry->d_name);
      struct stat status {};
      if (port.empty() || ::fstatat(::dirfd(directory.get()), entry->d_name, &status, 0) != 0) continue;
      if (!S_ISSOCK(status.st_mode) || !seen.emplace(status.st_dev, status.st_ino).second) continue;
      sockets.push_back({path, std::string(port),
                         why_not_trusted(fmt::format("{}/{}", path, entry->d_name), config.user, !config.search)});
    }
  }
  for (ListeningSocket& socket : config.search ? listening_sockets() : std::vector<ListeningSocket>()) {
    const std::filesystem::path path(socket.path);
    const std::string name = path.filename();
    struct stat status {};
    if (socket_port(name).empty()) continue;
    if (!path.is_absolute() || ::stat(path.c_str(), &status) != 0)
      lost.push_back(std::move(socket));
    else if (S_ISSOCK(status.st_mode) && seen.emplace(status.st_dev, status.st_ino).second)
      sockets.push_back(
          {path.parent_path(), std::string(socket_port(name)), why_not_trusted(socket.path, config.user, false)});
  }
  std::ranges::sort(sockets, {}, &Socket::port);
  return sockets;
}

/// What one cluster says of itself: the same through each of its sockets.
struct Identity {
  std::string cluster_name;
  std::string data_directory;
  std::string started;
  pid_t process = -1;
  [[nodiscard]] std::pair<std::string, std::string> key() const { return {data_directory, started}; }
};

/// Finds out which database is there for everybody: some drop the one made for that.
Session connect(Server& server, const Cancellation& cancellation, const Deadline& deadline) {
  try {
    return Session(server, server.database, cancellation, deadline);
  } catch (const QueryError&) {
    try {
      Session session(server, "template1", cancellation, deadline);
      server.database = "template1";
      return session;
    } catch (const QueryError&) {
      // The first one's reason is the better one.
    }
    throw;
  }
}

Identity identify(Server& server, const Deadline& deadline) {
  const Cancellation never;
  Session session = connect(server, never, deadline);
  if (session.server_version() < oldest_version)
    throw QuiesceError(fmt::format("version {} is older than 9.6", major_version(session.server_version())));
  const Rows rows = session.ask_one(
      "SELECT current_setting('cluster_name'), current_setting('data_directory'), "
      "pg_postmaster_start_time()::text || ' ' || (SELECT system_identifier FROM pg_control_system())",
      deadline);
  return {std::string(rows.text(0, 0)), std::string(rows.text(0, 1)), std::string(rows.text(0, 2)),
          session.server_process()};
}

}  // namespace

void discover_postgresql(const AgentConfig& config, const Deadline& deadline, Discovered& found) {
  if (!config.postgresql.enabled) return;
  std::vector<ListeningSocket> lost;
  const std::vector<Socket> sockets = find_sockets(config.postgresql, lost);
  if (sockets.empty() && lost.empty()) return;
  const std::optional<OsUser> os_user = find_os_user(config.postgresql.user);
  std::set<std::pair<std::string, std::string>> clusters;
  std::set<std::string> names;
  std::set<pid_t> processes;
  for (const Socket& socket : sockets) {
    const std::string path = fmt::format("{}/.s.PGSQL.{}", socket.directory, socket.port);
    if (!socket.untrusted.empty()) {
      found.warnings.push_back(fmt::format("postgresql at {}: left alone: {}", path, socket.untrusted));
      continue;
    }
    try {
      Server server{socket.directory, socket.port, config.postgresql.user, os_user};
      const Identity identity = identify(server, deadline.at_most(server_limit));
      processes.insert(identity.process);
      if (!clusters.insert(identity.key()).second) continue;
      std::string name =
          distinct_name(instance_name(identity.cluster_name, identity.data_directory, socket.port), socket.port, names);
      found.engines.push_back(std::make_unique<ClusterEngine>(config, std::move(server), std::move(name)));
    } catch (const std::exception& error) {
      add_unusable(found, "postgresql", "port-" + socket.port, path, error.what());
    }
  }
  for (const ListeningSocket& socket : lost) {
    const std::optional<pid_t> process = process_of(socket);
    // A server with several sockets has been reached through another one.
    if (process && processes.contains(*process)) continue;
    const std::string name = std::filesystem::path(socket.path).filename();
    add_unreachable(found, "postgresql", fmt::format("port-{}", socket_port(name)), socket.path, process,
                    config.postgresql.user);
  }
}

}  // namespace stillpoint
