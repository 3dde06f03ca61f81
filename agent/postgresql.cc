// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql.hh"

#include "agent/postgresql-engine.hh"
#include "agent/postgresql-text.hh"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
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
};

/// Every socket of a PostgreSQL server in these directories, each once however many names lead to it.
std::vector<Socket> find_sockets(const std::vector<std::string>& directories) {
  std::vector<Socket> sockets;
  std::set<std::pair<dev_t, ino_t>> seen;
  for (const std::string& path : directories) {
    const Directory directory(::opendir(path.c_str()));
    if (!directory) continue;
    while (const dirent* entry = ::readdir(directory.get())) {
      const std::string_view port = socket_port(entry->d_name);
      struct stat status {};
      if (port.empty() || ::fstatat(::dirfd(directory.get()), entry->d_name, &status, 0) != 0) continue;
      if (!S_ISSOCK(status.st_mode) || !seen.emplace(status.st_dev, status.st_ino).second) continue;
      sockets.push_back({path, std::string(port)});
    }
  }
  std::ranges::sort(sockets, {}, &Socket::port);
  return sockets;
}

/// What one cluster says of itself: the same through each of its sockets.
struct Identity {
  std::string cluster_name;
  std::string data_directory;
  std::string started;
  [[nodiscard]] std::pair<std::string, std::string> key() const { return {data_directory, started}; }
};

Identity identify(const Server& server, const Deadline& deadline) {
  const Cancellation never;
  Session session(server, "postgres", never, deadline);
  if (session.server_version() < oldest_version)
    throw QuiesceError(fmt::format("version {} is older than 9.6", major_version(session.server_version())));
  const Rows rows = session.ask_one(
      "SELECT current_setting('cluster_name'), current_setting('data_directory'), "
      "pg_postmaster_start_time()::text || ' ' || (SELECT system_identifier FROM pg_control_system())",
      deadline);
  return {std::string(rows.text(0, 0)), std::string(rows.text(0, 1)), std::string(rows.text(0, 2))};
}

}  // namespace

void discover_postgresql(const AgentConfig& config, const Deadline& deadline, Discovered& found) {
  if (!config.postgresql.enabled) return;
  const std::vector<Socket> sockets = find_sockets(config.postgresql.socket_directories);
  if (sockets.empty()) return;
  const std::optional<OsUser> os_user = find_os_user(config.postgresql.user);
  std::set<std::pair<std::string, std::string>> clusters;
  std::set<std::string> names;
  for (const Socket& socket : sockets) {
    try {
      Server server{socket.directory, socket.port, config.postgresql.user, os_user};
      const Identity identity = identify(server, deadline.at_most(server_limit));
      if (!clusters.insert(identity.key()).second) continue;
      std::string name = instance_name(identity.cluster_name, identity.data_directory, socket.port);
      if (!names.insert(name).second) name = fmt::format("{}-port-{}", name, socket.port);
      found.engines.push_back(std::make_unique<ClusterEngine>(config, std::move(server), std::move(name)));
    } catch (const std::exception& error) {
      add_unusable(found, "postgresql", "port-" + socket.port,
                   fmt::format("{}/.s.PGSQL.{}", socket.directory, socket.port), error.what());
    }
  }
}

}  // namespace stillpoint
