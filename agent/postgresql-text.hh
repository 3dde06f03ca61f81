// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

/// Text that PostgreSQL and its tools read or write: no server is needed for it.
namespace stillpoint::postgresql {

using Oid = std::uint32_t;

/// One line of the DETAIL of a detected deadlock.
struct DeadlockEdge {
  int waiting_pid = 0;
  Oid relation = 0;  ///< 0 when it is no relation that is waited for
  int blocking_pid = 0;

  bool operator==(const DeadlockEdge&) const = default;
};

/// Reads "Process 12 waits for ShareLock on relation 16385 of database 5; blocked by process 34." and its like, one a
/// line; lines of another form are skipped (other languages too: the numbers stay).
[[nodiscard]] std::vector<DeadlockEdge> parse_deadlock(std::string_view detail);

/// `text` as a value of a libpq connection string: quoted, so that no database's name can be taken for more.
[[nodiscard]] std::string conninfo_value(std::string_view text);

/// What tells this cluster from others in words: "15-main" from the cluster name "15/main" or from a data directory
/// as Debian lays it out (/var/lib/postgresql/15/main), else "port-5432". Safe as a part of a dump's name.
[[nodiscard]] std::string instance_name(std::string_view cluster_name, std::string_view data_directory,
                                        std::string_view port);

/// `name`, or with the port and a number added what is not among `taken`; adds it there.
[[nodiscard]] std::string distinct_name(std::string name, std::string_view port, std::set<std::string>& taken);

inline constexpr std::string_view globals_part = "@globals";

/// "15", or "9.6" before version 10: how the folders of the programs are named. `server_version` as libpq counts.
[[nodiscard]] std::string major_version(int server_version);

/// The port in the name of a socket file ".s.PGSQL.5432"; empty when it is none.
[[nodiscard]] std::string_view socket_port(std::string_view file_name);

}  // namespace stillpoint::postgresql
