// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/file.hh"
#include "common/program.hh"
#include "common/report.hh"

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

namespace stillpoint {

/// Which of this host's programs recover a server's data directory.
struct OfflinePrograms {
  enum class Engine { postgresql, mariadb };
  Engine engine = Engine::postgresql;
  std::filesystem::path directory;  ///< of PostgreSQL's programs
  std::string version;              ///< of the server that is started here
};

/// Those that fit the server of that report. Throws NotFound that says what to install; ConfigError when what confines
/// them (bwrap) is missing.
[[nodiscard]] OfflinePrograms find_offline_programs(const DatabaseReport& server);

/// A database server of this host on a copy of a guest's data directory, which is hostile: it runs as nobody, and sees
/// nothing but the copy and the host's programs; no network, no process but its own, none of the guest's configuration.
/// `work`/data is the copy; all of `work` is the server's, and `work` stays the caller's to remove.
class OfflineServer {
 public:
  /// Takes the copy over and starts the server. Throws CaptureError.
  OfflineServer(OfflinePrograms programs, std::filesystem::path work);
  OfflineServer(const OfflineServer&) = delete;
  OfflineServer& operator=(const OfflineServer&) = delete;
  ~OfflineServer() = default;

  /// Until it has recovered and answers. Throws CaptureError with what it says when it ends or the deadline passes;
  /// Interrupted.
  void await(const Deadline& deadline, const std::stop_token& stop);

  using Take = std::function<void(std::span<const std::byte>)>;
  /// The dump of that database as the agent makes it. Returns why it failed; empty when it succeeded. Throws
  /// Interrupted, and what `take` throws.
  [[nodiscard]] std::string dump(const DatabaseReport& database, const Take& take, const Deadline& deadline,
                                 const std::stop_token& stop);
  /// What the server's own check finds wrong with a database; `tool` is told who made it. The same way.
  [[nodiscard]] std::string check(const DatabaseReport& database, std::string& tool, std::string& findings,
                                  const Deadline& deadline, const std::stop_token& stop);

 private:
  [[nodiscard]] std::vector<std::string> server_command() const;
  [[nodiscard]] std::vector<std::string> ready_command() const;
  [[nodiscard]] std::string program(const char* name) const;
  [[nodiscard]] std::string conninfo(const std::string& database) const;
  [[nodiscard]] std::string run(const std::vector<std::string>& command, const Take& take, const Deadline& deadline,
                                const std::stop_token& stop) const;
  void take_over_files() const;
  void write_configuration() const;

  const OfflinePrograms programs_;
  const std::filesystem::path work_;
  std::optional<Intake> messages_;
  RunningProgram server_;
};

}  // namespace stillpoint
