// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-server.hh"

#include "agent/mysql-galera.hh"

#include <fmt/format.h>
#include <strings.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <tuple>
#include <utility>

namespace stillpoint::mysql {
namespace {

constexpr const char* not_system = " NOT IN ('information_schema', 'performance_schema', 'sys', 'mysql')";

bool is_one_of(const std::string& engine, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(),
                     [&](const char* name) { return ::strcasecmp(engine.c_str(), name) == 0; });
}

bool mentions_mariadb(const std::string& text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower.find("mariadb") != std::string::npos;
}

}  // namespace

unsigned version_number(std::string_view version) {
  unsigned parts[3] = {};
  std::size_t part = 0;
  for (const char c : version) {
    if (c == '.') {
      if (++part == 3) break;
    } else if (c >= '0' && c <= '9') {
      parts[part] = std::min(parts[part] * 10 + static_cast<unsigned>(c - '0'), 9999U);
    } else {
      break;
    }
  }
  return parts[0] * 10000 + std::min(parts[1], 99U) * 100 + std::min(parts[2], 99U);
}

Server identify(Session& session, std::string socket, Account account, const Deadline& deadline) {
  const std::vector<Session::Row> rows =
      session.rows("SELECT @@version, @@version_comment, @@datadir, @@hostname, @@port", deadline);
  if (rows.size() != 1 || rows[0].size() != 5) throw SessionError("the server does not say what it is", 0);
  Server server;
  server.socket = std::move(socket);
  server.account = std::move(account);
  server.version = rows[0][0];
  server.version_number = version_number(server.version);
  server.mariadb = mentions_mariadb(rows[0][0]) || mentions_mariadb(rows[0][1]);
  server.data_path = rows[0][2];
  server.data_directory = rows[0][2] + '\n' + rows[0][3] + '\n' + rows[0][4];
  server.galera = is_galera_node(session, deadline);
  return server;
}

bool Table::transactional() const {
  return is_one_of(engine, {"InnoDB", "ROCKSDB", "TokuDB"});
}

bool Table::pinnable() const {
  // FEDERATED, CONNECT, SPIDER and the like may ask other machines. Aria takes part in transactions but knows no
  // savepoints, and the dump tools use those.
  return !broken && is_one_of(engine, {"InnoDB", "ROCKSDB", "TokuDB", "MyISAM"});
}

bool Table::holdable() const {
  return !broken && is_one_of(engine, {"MyISAM", "Aria"});
}

bool comes_before(const Table& a, const Table& b) {
  return std::tie(a.database, a.name) < std::tie(b.database, b.name);
}

std::vector<std::string> read_databases(Session& session, const Deadline& deadline) {
  std::vector<std::string> result;
  for (Session::Row& row :
       session.rows(std::string("SELECT schema_name FROM information_schema.schemata WHERE schema_name") + not_system,
                    deadline)) {
    // A directory that is no database, as lost+found.
    if (!row.at(0).starts_with("#mysql50#")) result.push_back(std::move(row[0]));
  }
  std::sort(result.begin(), result.end());
  return result;
}

Catalogue read_catalogue(Session& session, const Deadline& deadline) {
  Catalogue result;
  result.databases = read_databases(session, deadline);
  for (Session::Row& row :
       session.rows(std::string("SELECT table_schema, table_name, engine, table_type FROM information_schema.tables "
                                "WHERE table_type NOT LIKE '%VIEW' AND table_schema") +
                        not_system,
                    deadline))
    result.tables.push_back(
        {std::move(row.at(0)), std::move(row.at(1)), std::move(row.at(2)), row.at(3) == "SEQUENCE", false, false});
  std::sort(result.tables.begin(), result.tables.end(), comes_before);
  return result;
}

std::vector<Pin> pins(const std::vector<Table>& tables, std::string_view database) {
  std::vector<Pin> result;
  for (std::size_t i = 0; i < tables.size(); ++i) {
    const Table& table = tables[i];
    if (table.database != database || !table.pinnable()) continue;
    if (result.empty() || result.back().tables == tables_a_pin) result.push_back({"DO ", i, i, 0});
    Pin& pin = result.back();
    pin.last = i;
    if (pin.tables++ > 0) pin.statement += ',';
    pin.statement +=
        "(SELECT 1 FROM " + quote_identifier(table.database) + '.' + quote_identifier(table.name) + " LIMIT 0)";
  }
  return result;
}

Json read_position(Session& session, const Server& server, const Deadline& deadline) {
  Json position = Json::object();
  const bool renamed = !server.mariadb && server.version_number >= 80400;
  const auto master = session.rows(renamed ? "SHOW BINARY LOG STATUS" : "SHOW MASTER STATUS", deadline);
  if (!master.empty() && master[0].size() >= 2) {
    position["binlog"] = master[0][0] + ':' + master[0][1];
  } else {
    const auto lsn = session.rows("SHOW GLOBAL STATUS LIKE 'Innodb_lsn_current'", deadline);
    if (!lsn.empty() && lsn[0].size() == 2) position["innodb_lsn"] = lsn[0][1];
  }
  std::string gtid;
  if (server.mariadb)
    gtid = session.value("SELECT @@gtid_current_pos", deadline);
  else if (server.version_number >= 50605)
    gtid = session.value("SELECT @@global.gtid_executed", deadline);
  if (!gtid.empty()) position["gtid"] = gtid;
  return position;
}

std::size_t spare_connections(Session& session, const Deadline& deadline) {
  const auto number = [](const std::string& text) {
    return text.empty() ? std::size_t{0} : static_cast<std::size_t>(std::strtoull(text.c_str(), nullptr, 10));
  };
  const std::size_t most = number(session.value("SELECT @@max_connections", deadline));
  const auto row = session.rows("SHOW GLOBAL STATUS LIKE 'Threads_connected'", deadline);
  const std::size_t used = row.empty() || row[0].size() != 2 ? 0 : number(row[0][1]);
  return std::max<std::size_t>(1, most > used ? (most - used) / 2 : 0);
}

std::uint64_t count_prepared_transactions(Session& session, const Deadline& deadline) {
  return session.rows("XA RECOVER", deadline).size();
}

std::string accounts_fingerprint(Session& session, const Deadline& deadline) {
  // Those of every version: CHECKSUM TABLE answers NULL for a table that a server does not have.
  static constexpr const char* tables =
      "mysql.user, mysql.global_priv, mysql.db, mysql.tables_priv, mysql.columns_priv, mysql.procs_priv, "
      "mysql.proxies_priv, mysql.roles_mapping, mysql.role_edges, mysql.default_roles, mysql.global_grants, "
      "mysql.func, mysql.plugin, mysql.servers";
  std::string fingerprint;
  for (const Session::Row& row : session.rows(fmt::format("CHECKSUM TABLE {} EXTENDED", tables), deadline))
    fingerprint += fmt::format("{}={};", row.at(0), row.at(1));
  return fingerprint;
}

}  // namespace stillpoint::mysql
