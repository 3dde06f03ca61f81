// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/dump-tool.hh"
#include "agent/mysql-link.hh"
#include "agent/mysql-server.hh"

#include <string>
#include <vector>

namespace stillpoint::mysql {

/// What one dump holds.
struct DumpScope {
  enum class Kind {
    database,   ///< one database, without its CREATE DATABASE: it may be restored under any name
    databases,  ///< several, each with its CREATE DATABASE
    accounts,   ///< users, roles and grants, user-defined functions, server definitions
  };
  Kind kind = Kind::database;
  std::vector<std::string> databases;  ///< empty for accounts
};

/// The official tool for this server with the options that make two dumps of the same rows the same bytes, connecting
/// to `socket`. Throws CaptureError when it is not installed.
[[nodiscard]] Program dump_tool(const Server& server, const DumpScope& scope, const std::string& socket);

/// The official tool that checks the tables of what such a dump holds, and says nothing of those that are good. Throws
/// NotFound when it is not installed.
[[nodiscard]] Program check_tool(const Server& server, const DumpScope& scope);

/// What the relay says in such a tool's session.
[[nodiscard]] GateScript dump_gate(const Server& server);

}  // namespace stillpoint::mysql
