// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/report.hh"
#include "host/guest/agent-conversation.hh"
#include "host/guest/domain.hh"

#include <chrono>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// The companion's end of the channel to the agent in a guest. Hot-plugs the port when the domain does not define it,
/// and unplugs it at the end of the scope. Everything that comes back is validated.
class AgentClient {
 public:
  using Prepared = PreparedDatabases;
  using DumpSink = stillpoint::DumpSink;

  /// Throws Unreachable when no agent answers within the deadline (none installed, port refused), Locked when another
  /// companion talks to it.
  AgentClient(const Domain& domain, const Deadline& deadline);
  AgentClient(const AgentClient&) = delete;
  AgentClient& operator=(const AgentClient&) = delete;
  /// finish() for what is still held, with a short limit; then unplugs.
  ~AgentClient();

  /// The agent refuses a freeze whose site hooks and barrier would take longer than `freeze_limit`. Throws QuiesceError
  /// with the agent's words, Unreachable.
  [[nodiscard]] Prepared prepare(std::string_view id, const Deadline& deadline,
                                 std::optional<std::chrono::milliseconds> freeze_limit = std::nullopt);
  /// After the thaw. Throws QuiesceError when the agent has none for that id.
  [[nodiscard]] Report report(std::string_view id, const Deadline& deadline);

  /// Streams dumps, several at once, each with a bounded window of credit. `sink_for` is called once a name, when its
  /// stream starts. A stream that stalls for longer than `silence` fails; the others go on. Throws Unreachable when the
  /// channel breaks, Interrupted after a stop.
  void run_dumps(std::string_view id, const std::vector<std::string>& names, const DumpSinkFor& sink_for,
                 std::chrono::milliseconds silence, const std::stop_token& stop);

  /// After the dumps: lets the servers check the databases that these dumps are of, as run_dumps() does. A sink gets
  /// what a check finds wrong, and nothing of a good one. One whose checked_by() is not called was not checked: its
  /// failure says why.
  void run_checks(std::string_view id, const std::vector<std::string>& names, const DumpSinkFor& sink_for,
                  std::chrono::milliseconds silence, const std::stop_token& stop);

  /// Lets the agent close its database snapshots. Never throws; bounded.
  void finish(std::string_view id) noexcept;

 private:
  class Channel;
  std::unique_ptr<Channel> channel_;
};

}  // namespace stillpoint
