// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-dump.hh"

#include "common/errors.hh"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <system_error>

namespace stillpoint::mysql {
namespace {

constexpr std::array<const char*, 4> search_path{"/usr/bin", "/usr/local/bin", "/usr/local/mysql/bin", "/bin"};

/// By the first of these names that there is; empty when there is none.
std::filesystem::path find_first(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    for (const char* directory : search_path) {
      std::filesystem::path path = std::filesystem::path(directory) / name;
      if (::access(path.c_str(), X_OK) == 0) return path;
    }
  }
  return {};
}

std::filesystem::path find_program(const Server& server) {
  const std::vector<std::string> names =
      server.mariadb ? std::vector<std::string>{"mariadb-dump", "mysqldump"} : std::vector<std::string>{"mysqldump"};
  if (std::filesystem::path path = find_first(names); !path.empty()) return path;
  throw CaptureError(fmt::format("{} is not installed", names.front()),
                     fmt::format("install the {} client in the guest", server.engine()));
}

/// MariaDB's tool and MySQL's know different options, and each is installed under the other's name somewhere.
bool is_mariadb_tool(const Server& server, const std::filesystem::path& program) {
  if (server.mariadb) return true;
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(program, error);
  return !error && real.filename().native().find("mariadb") != std::string::npos;
}

/// Whether its tool has --system: older ones get the tables of `mysql` as they are.
bool dumps_accounts_as_statements(const Server& server) {
  const unsigned version = server.version_number;
  return server.mariadb && (version >= 100509 || (version >= 100418 && version < 100500));
}

/// What every official tool is told before it is told what to do.
Program client_tool(const Server& server, std::filesystem::path path, const std::string& socket) {
  Program tool;
  tool.path = std::move(path);
  // No option file: what it says for the operator's own use must not change ours.
  tool.arguments = {"--no-defaults", "--protocol=socket", "--socket=" + socket, "--user=" + server.account.user,
                    "--default-character-set=utf8mb4"};
  if (is_mariadb_tool(server, tool.path))
    tool.arguments.emplace_back("--skip-ssl");
  else
    tool.arguments.emplace_back(server.version_number >= 50711 ? "--ssl-mode=DISABLED" : "--skip-ssl");
  tool.environment = {"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"};
  // Not an argument: everybody can read those.
  if (!server.account.password.empty()) tool.environment.push_back("MYSQL_PWD=" + server.account.password);
  return tool;
}

}  // namespace

Program dump_tool(const Server& server, const DumpScope& scope, const std::string& socket) {
  Program tool = client_tool(server, find_program(server), socket);
  for (const char* option : {"--max-allowed-packet=1G", "--single-transaction", "--skip-lock-tables", "--quick",
                             "--hex-blob", "--skip-dump-date", "--no-tablespaces"})
    tool.arguments.emplace_back(option);
  if (!is_mariadb_tool(server, tool.path) && server.version_number >= 50605)
    tool.arguments.emplace_back("--set-gtid-purged=OFF");
  if (scope.kind == DumpScope::Kind::accounts) {
    if (dumps_accounts_as_statements(server)) {
      // The server that it is restored into has a root account of its own.
      tool.arguments.emplace_back("--insert-ignore");
      tool.arguments.emplace_back("--system=users,udfs,servers");
    } else {
      tool.arguments.emplace_back("mysql");
    }
  } else {
    // By primary key: the order must not depend on which index the optimizer likes today.
    for (const char* option : {"--order-by-primary", "--routines", "--triggers", "--events"})
      tool.arguments.emplace_back(option);
    if (scope.kind == DumpScope::Kind::databases) tool.arguments.emplace_back("--databases");
    tool.arguments.emplace_back("--");
    tool.arguments.insert(tool.arguments.end(), scope.databases.begin(), scope.databases.end());
  }
  return tool;
}

Program check_tool(const Server& server, const DumpScope& scope) {
  const std::vector<std::string> names =
      server.mariadb ? std::vector<std::string>{"mariadb-check", "mysqlcheck"} : std::vector<std::string>{"mysqlcheck"};
  std::filesystem::path path = find_first(names);
  if (path.empty())
    throw NotFound(fmt::format("{} is not installed", names.front()),
                   fmt::format("install the {} client in the guest", server.engine()));
  Program tool = client_tool(server, std::move(path), server.socket);
  for (const char* option : {"--check", "--silent", "--databases", "--"})
    tool.arguments.emplace_back(option);
  if (scope.kind == DumpScope::Kind::accounts)
    tool.arguments.emplace_back("mysql");
  else
    tool.arguments.insert(tool.arguments.end(), scope.databases.begin(), scope.databases.end());
  return tool;
}

GateScript dump_gate(const Server& server) {
  GateScript script;
  // The host may read a dump slowly, or begin with it late. The pins must not wait at all: a statement that changes a
  // table and waits for us would be waited for.
  const bool no_wait = server.mariadb && server.version_number >= 100300;
  script.settings.push_back(
      fmt::format("SET SESSION wait_timeout=86400, SESSION net_read_timeout=86400, SESSION net_write_timeout=86400, "
                  "SESSION lock_wait_timeout={}",
                  no_wait ? 0 : 1));
  if (server.mariadb && server.version_number >= 100300)
    script.settings.emplace_back(
        "SET SESSION idle_transaction_timeout=0, SESSION idle_readonly_transaction_timeout=0, "
        "SESSION idle_write_transaction_timeout=0");
  if (!server.mariadb && server.version_number >= 50708)
    script.settings.emplace_back("SET SESSION max_execution_time=0");
  if (server.galera) script.settings.emplace_back("SET SESSION wsrep_sync_wait=0");
  // A table that is not pinned and is being changed: fail, rather than hang.
  script.last = "SET SESSION lock_wait_timeout=60";
  return script;
}

}  // namespace stillpoint::mysql
