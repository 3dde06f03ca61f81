// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/discovery.hh"

#include "agent/listening-sockets.hh"
#include "agent/mysql.hh"
#include "agent/plugin-engine.hh"
#include "agent/postgresql.hh"
#include "common/file.hh"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <utility>

namespace stillpoint {

namespace {

/// Without waiting: a queue that is full (EAGAIN) has somebody behind it too.
bool somebody_listens(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return true;
  path.copy(address.sun_path, path.size());
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return true;
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): how the sockets interface is
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return true;
  return errno != ECONNREFUSED && errno != ENOENT;
}

}  // namespace

void add_unusable(Discovered& found, std::string engine, std::string instance, const std::string& socket,
                  const std::string& reason) {
  found.warnings.push_back(fmt::format("{} at {}: {}", engine, socket, reason));
  if (!somebody_listens(socket)) return;
  DatabaseReport server;
  server.engine = std::move(engine);
  server.instance = std::move(instance);
  server.reason = reason;
  found.unusable.push_back(std::move(server));
}

void add_unreachable(Discovered& found, std::string engine, std::string instance, const std::string& socket,
                     std::optional<pid_t> process, const std::string& account) {
  const std::string reason = "a server listens there, but the socket cannot be reached by that name";
  found.warnings.push_back(fmt::format("{} at {}: {}", engine, socket, reason));
  const std::optional<uid_t> user = process ? user_of(*process) : std::nullopt;
  if (!user || !may_run_servers(*user, account)) return;
  DatabaseReport server;
  server.engine = std::move(engine);
  server.instance = std::move(instance);
  server.reason = fmt::format("{}: {}", socket, reason);
  found.unusable.push_back(std::move(server));
}

Discovered discover(const AgentConfig& config, const std::string& id, const Deadline& deadline) {
  Discovered found;
  if (config.postgresql.enabled) discover_postgresql(config, deadline, found);
  if (config.mysql.enabled) discover_mysql(config, deadline, found);
  discover_plugins(config, id, deadline, found);
  return found;
}

}  // namespace stillpoint
