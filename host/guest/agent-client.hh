// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/report.hh"
#include "host/guest/domain.hh"

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A database as the agent found it at prepare.
struct PreparedDatabase {
  std::string engine;
  std::string instance;
  std::string database;
  bool ready = false;
  std::string reason;  ///< why it is not ready
};

/// The companion's end of the channel to the agent in a guest. Hot-plugs the port when the domain does not define it,
/// and unplugs it at the end of the scope. Everything that comes back is validated.
class AgentClient {
 public:
  /// Throws Unreachable when no agent answers within the deadline (none installed, port refused).
  AgentClient(const Domain& domain, const Deadline& deadline);
  AgentClient(const AgentClient&) = delete;
  AgentClient& operator=(const AgentClient&) = delete;
  /// finish() for what is still held, with a short limit; then unplugs.
  ~AgentClient();

  [[nodiscard]] const std::string& agent_version() const noexcept;

  struct Prepared {
    std::vector<PreparedDatabase> databases;
    std::vector<std::string> warnings;
  };
  /// Throws QuiesceError with the agent's words, Unreachable.
  [[nodiscard]] Prepared prepare(std::string_view id, const Deadline& deadline);
  /// After the thaw. Throws QuiesceError when the agent has none for that id.
  [[nodiscard]] Report report(std::string_view id, const Deadline& deadline);

  /// Receives the bytes of one dump. Called from run_dumps' thread; may throw to stop them all.
  class DumpSink {
   public:
    virtual ~DumpSink() = default;
    virtual void write(std::span<const std::byte> bytes) = 0;
    /// `failure` is empty when the tool succeeded and every byte has arrived.
    virtual void end(const std::string& failure) = 0;
  };
  /// Streams dumps, several at once, each with a bounded window of credit. `sink_for` is called once a name, when its
  /// stream starts. A stream that stalls for longer than `silence` fails; the others go on. Throws Unreachable when the
  /// channel breaks.
  void run_dumps(std::string_view id, const std::vector<std::string>& names,
                 const std::function<std::unique_ptr<DumpSink>(const std::string& name)>& sink_for,
                 std::chrono::milliseconds silence);

  /// Lets the agent close its database snapshots. Never throws; bounded.
  void finish(std::string_view id) noexcept;

 private:
  class Channel;
  std::unique_ptr<Channel> channel_;
};

}  // namespace stillpoint
