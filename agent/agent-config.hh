// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/protocol.hh"

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

namespace stillpoint {

/// What becomes of a freeze when a database cannot be held.
enum class ExactPolicy {
  attempt,  ///< it goes on, and the report says which dump is skewed, and why
  require,  ///< it fails
  off,      ///< no writer is ever held: every dump is skewed
};

/// agent.conf: what discovery cannot know. Every field has a default; a missing file is an empty one.
struct AgentConfig {
  struct PostgreSql {
    bool enabled = true;
    /// Whether every socket of the guest is looked at, not only those below: until the configuration names some.
    bool search = true;
    std::vector<std::string> socket_directories{"/var/run/postgresql", "/tmp"};
    /// Role to connect as; the agent takes the uid of the same name while it connects (peer authentication).
    std::string user = "postgres";
    ExactPolicy exact = ExactPolicy::attempt;
    std::vector<std::string> exclude_databases;
  };
  struct MySql {
    bool enabled = true;
    bool search = true;  ///< as for PostgreSQL
    std::vector<std::string> sockets{"/run/mysqld/mysqld.sock", "/var/run/mysqld/mysqld.sock", "/tmp/mysql.sock"};
    std::string user = "root";
    /// File with the password in its first line; empty for unix_socket authentication.
    std::filesystem::path password_file;
    ExactPolicy exact = ExactPolicy::attempt;
    std::vector<std::string> exclude_databases;
    /// Whether MyISAM and Aria tables are kept from their writers until they are dumped, or only reported.
    bool hold_nontransactional = false;
  };

  std::chrono::milliseconds barrier_limit = protocol::barrier_limit;
  std::chrono::milliseconds hook_limit = protocol::hook_limit;
  std::chrono::milliseconds guest_deadline = protocol::guest_deadline;
  std::filesystem::path control_socket{protocol::control_socket};
  std::filesystem::path report_path{protocol::report_path};
  std::filesystem::path runtime_directory{"/run/stillpoint"};
  /// Plug-ins of the site; a directory that is missing is empty.
  std::filesystem::path engines_directory{"/etc/stillpoint/engines.d"};
  PostgreSql postgresql;
  MySql mysql;
  /// False only for the negative control of the tests (environment STILLPOINT_TEST_NO_BARRIER=1): database snapshots
  /// are opened, but writers are not held, so dump and block snapshot must differ.
  bool hold_writers = true;
  /// With hold_writers false, whether the report hides that (STILLPOINT_TEST_NO_BARRIER=lie): then only a comparison
  /// can tell.
  bool conceal_open_barrier = false;
};

/// Reads a GKeyFile with groups [agent], [postgresql], [mysql]. Throws ConfigError naming file, group and key for an
/// unknown or malformed one, and when the limits do not stand in their order.
[[nodiscard]] AgentConfig load_agent_config(const std::filesystem::path& path);

}  // namespace stillpoint
