// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/engine.hh"
#include "agent/postgresql-session.hh"

#include <filesystem>
#include <string>

/// Running PostgreSQL's own dump programs.
namespace stillpoint::postgresql {

/// The program of that name that can dump a server of this version: its own release's, else the next later one, else
/// what is in /usr/bin. Throws CaptureError naming the package to install.
[[nodiscard]] std::filesystem::path find_program(std::string_view name, int server_version);

/// pg_dump of one database as of an exported database snapshot, as SQL text without CREATE DATABASE. Unlogged tables
/// are dumped empty, as the server itself finds them after recovering the block snapshot.
[[nodiscard]] RunningDump dump_database(const Server& server, int server_version, const std::string& database,
                                        const std::string& snapshot);

/// pg_amcheck of one database: heaps, and indexes against their heaps. Creates the extension amcheck where it is
/// missing: for copies. Throws NotFound when it is not installed, or the server has none.
[[nodiscard]] RunningCheck check_database(const Server& server, int server_version, const std::string& database);

/// pg_dumpall --globals-only: roles, memberships, tablespaces.
[[nodiscard]] RunningDump dump_globals(const Server& server, int server_version);

/// Waits for a dump that is small: its text, at most `limit` bytes. Throws CaptureError.
[[nodiscard]] std::string read_dump(RunningDump dump, std::size_t limit, const Deadline& deadline);

/// A dump that is over: hands out `text`, of at most a pipe's capacity, and has succeeded. Throws CaptureError.
[[nodiscard]] RunningDump finished_dump(const std::string& text);
inline constexpr std::size_t finished_dump_limit = 1 << 20;  ///< bytes

}  // namespace stillpoint::postgresql
