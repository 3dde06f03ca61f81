// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/listening-sockets.hh"
#include "agent/mysql-engine.hh"
#include "agent/mysql.hh"
#include "common/errors.hh"
#include "common/file.hh"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

namespace stillpoint::mysql {
namespace {

/// One socket must not use up the time of all.
constexpr std::chrono::milliseconds probe_limit{5000};
const std::string server_account = "mysql";

Account read_account(const AgentConfig::MySql& config) {
  Account account{config.user, {}};
  if (!config.password_file.empty()) {
    const std::string text = read_text(config.password_file, 4096);
    account.password = text.substr(0, text.find_first_of("\r\n"));
    if (account.password.empty())
      throw ConfigError(fmt::format("{} has no password in its first line", config.password_file.native()));
  }
  return account;
}

Server probe(const AgentConfig& config, const Account& account, const std::string& socket, const Deadline& deadline) {
  std::optional<OsUser> user;
  if (account.password.empty()) user = find_os_user(account.user);
  Relay relay(socket, config.runtime_directory, user);
  Session session(relay, account, deadline);
  return identify(session, socket, account, deadline);
}

/// What servers call their socket: "mysqld.sock", "mysql_3307.sock", "mariadb.sock". MySQL's X protocol is another one,
/// and a router leads to other machines.
bool is_server_socket(const std::string& name) {
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  return name.ends_with(".sock") && (has("mysql") || has("maria")) && !has("mysqlx") && !has("router");
}

/// "mysqld2" for /run/mysqld/mysqld2.sock; the same characters that a dump's name may have.
void name_instances(std::vector<Server>& servers) {
  if (servers.size() < 2) return;
  std::set<std::string> taken;
  for (Server& server : servers) {
    const std::filesystem::path path(server.socket);
    std::string name = protocol::dump_name_part(path.stem().native());
    if (taken.contains(name)) name = protocol::dump_name_part(path.parent_path().filename().native() + "-" + name);
    for (int number = 2; !taken.insert(name).second; ++number)
      name = protocol::dump_name_part(fmt::format("{}-{}", path.stem().native(), number));
    server.instance = name;
  }
}

}  // namespace

void discover_mysql(const AgentConfig& config, std::optional<BarrierKind> barrier, const Deadline& deadline,
                    Discovered& found) {
  if (!config.mysql.enabled) return;
  std::vector<Server> servers;
  std::set<std::pair<dev_t, ino_t>> seen;
  std::vector<std::string> sockets = config.mysql.sockets;
  for (const ListeningSocket& socket : config.mysql.search ? listening_sockets() : std::vector<ListeningSocket>()) {
    const std::filesystem::path path(socket.path);
    if (!is_server_socket(path.filename())) continue;
    std::error_code error;
    if (path.is_absolute() && std::filesystem::exists(path, error))
      sockets.push_back(socket.path);
    else
      add_unreachable(found, "mysql", protocol::dump_name_part(path.stem().native()), socket.path, process_of(socket),
                      server_account);
  }
  for (const std::string& socket : sockets) {
    struct stat status {};
    if (::stat(socket.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) continue;
    if (!seen.emplace(status.st_dev, status.st_ino).second) continue;
    if (const std::string why = why_not_trusted(socket, server_account, !config.mysql.search); !why.empty()) {
      found.warnings.push_back(fmt::format("mysql at {}: left alone: {}", socket, why));
      continue;
    }
    try {
      Server server = probe(config, read_account(config.mysql), socket, deadline.at_most(probe_limit));
      const bool known = std::any_of(servers.begin(), servers.end(), [&](const Server& other) {
        return other.data_directory == server.data_directory;
      });
      if (!known) servers.push_back(std::move(server));
    } catch (const std::exception& error) {
      add_unusable(found, "mysql", protocol::dump_name_part(std::filesystem::path(socket).stem().native()), socket,
                   error.what());
    }
  }
  name_instances(servers);
  for (Server& server : servers) {
    const BarrierKind best = barrier.value_or(best_barrier(server));
    const bool hold = config.hold_writers && config.mysql.exact != ExactPolicy::off;
    const BarrierKind kind = hold ? best : BarrierKind::none;
    found.engines.push_back(std::make_unique<MySqlEngine>(config, std::move(server), kind));
  }
}

}  // namespace stillpoint::mysql

namespace stillpoint {

void discover_mysql(const AgentConfig& config, const Deadline& deadline, Discovered& found) {
  try {
    mysql::discover_mysql(config, std::nullopt, deadline, found);
  } catch (const std::exception& error) {
    found.warnings.push_back(fmt::format("MySQL servers could not be looked for: {}", error.what()));
  }
}

}  // namespace stillpoint
