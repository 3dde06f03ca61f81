// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/mysql-session.hh"
#include "common/clock.hh"
#include "common/json.hh"

#include <cstdint>
#include <string>
#include <vector>

namespace stillpoint::mysql {

/// A MariaDB or MySQL server that answers.
struct Server {
  std::string socket;
  Account account;
  bool mariadb = true;
  std::string version;          ///< as the server says it
  unsigned version_number = 0;  ///< 10.11.19 is 101119
  std::string data_path;        ///< of its data directory
  std::string data_directory;   ///< tells servers apart
  std::string instance = "default";
  bool galera = false;  ///< a node of a cluster

  [[nodiscard]] const char* engine() const noexcept { return mariadb ? "mariadb" : "mysql"; }
};

/// 101119 for "10.11.19-MariaDB-log"; 0 when it is no version.
[[nodiscard]] unsigned version_number(std::string_view version);

/// The server's number for a lock that was not to be had in time.
inline constexpr int lock_wait_timeout = 1205;

/// Asks the server what it is. Throws SessionError.
[[nodiscard]] Server identify(Session& session, std::string socket, Account account, const Deadline& deadline);

struct Table {
  std::string database;
  std::string name;
  std::string engine;     ///< "InnoDB", ...; "" when the server cannot tell, because the table is broken
  bool sequence = false;  ///< an object of CREATE SEQUENCE: counts on outside of transactions
  bool broken = false;    ///< reading nothing of it failed
  bool held = false;      ///< nobody writes to it before it is dumped

  /// Whether a snapshot shows it as it was.
  [[nodiscard]] bool transactional() const;
  /// Whether reading it is sure to touch this server only.
  [[nodiscard]] bool pinnable() const;
  /// Whether a lock makes its dump what its files hold: it has no snapshots, and recovery keeps its rows.
  [[nodiscard]] bool holdable() const;
};

/// The order of a catalogue's tables.
[[nodiscard]] bool comes_before(const Table& a, const Table& b);

/// What the server holds besides its own system databases; both in ascending order.
struct Catalogue {
  std::vector<std::string> databases;
  std::vector<Table> tables;  ///< base tables and sequences, no views
};

/// Its databases alone.
[[nodiscard]] std::vector<std::string> read_databases(Session& session, const Deadline& deadline);
[[nodiscard]] Catalogue read_catalogue(Session& session, const Deadline& deadline);

/// Few enough that a statement stays short, enough that thousands of tables cost few statements.
inline constexpr std::size_t tables_a_pin = 50;

/// Statements that read nothing of the tables, and so keep their metadata locks until the transaction's end; several
/// tables a statement. They return no rows.
struct Pin {
  std::string statement;
  std::size_t first = 0;   ///< of its tables, as an index into what pins() was given
  std::size_t last = 0;    ///< of its tables; others of the same database may lie between
  std::size_t tables = 0;  ///< how many
};
[[nodiscard]] std::vector<Pin> pins(const std::vector<Table>& tables, std::string_view database);

/// Where the server's binary log and transaction ids stand: {"binlog": "bin.000001:4711", "gtid": "0-1-17"}, and
/// {"innodb_lsn": ...} for a server without a binary log. Read inside the barrier, they are where a replica that is
/// loaded with the dump begins.
[[nodiscard]] Json read_position(Session& session, const Server& server, const Deadline& deadline);

/// How many connections we may take from those that the server has left; at least 1.
[[nodiscard]] std::size_t spare_connections(Session& session, const Deadline& deadline);

/// How many distributed transactions are prepared: recovery keeps them, a dump does not show them.
[[nodiscard]] std::uint64_t count_prepared_transactions(Session& session, const Deadline& deadline);

/// Changes whenever users, roles, grants, user-defined functions or server definitions do. Reads small system tables
/// only.
[[nodiscard]] std::string accounts_fingerprint(Session& session, const Deadline& deadline);

}  // namespace stillpoint::mysql
