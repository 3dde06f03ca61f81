// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/file.hh"
#include "common/frame.hh"
#include "common/report.hh"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
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

struct PreparedDatabases {
  std::vector<PreparedDatabase> databases;
  std::vector<std::string> clusters;  ///< whose other nodes are not to be held meanwhile; at most 64 of 128 bytes
  std::vector<std::string> warnings;
};

/// Receives the bytes of one dump. Called from run_dumps' thread; may throw to stop them all.
class DumpSink {
 public:
  virtual ~DumpSink() = default;
  virtual void write(std::span<const std::byte> bytes) = 0;
  /// `failure` is empty when the tool succeeded and every byte has arrived.
  virtual void end(const std::string& failure) = 0;
  /// Before the end of a check that was made: the program that made it.
  virtual void checked_by(const std::string& tool) { static_cast<void>(tool); }
};
using DumpSinkFor = std::function<std::unique_ptr<DumpSink>(const std::string& name)>;

/// Dumps that run at once, and the bytes each may have under way.
inline constexpr std::size_t dumps_at_once = 4;
inline constexpr std::uint64_t dump_window = std::uint64_t{4} << 20;

/// The companion's side of docs/protocol.md over a byte stream, whatever carries it. The other side is hostile: it can
/// end the conversation or be silent, and that is all. One thread uses it.
class AgentConversation {
 public:
  /// `stream` is a socket. Says hello until it comes back with our nonce. Throws Unreachable.
  AgentConversation(UniqueFd stream, const Deadline& deadline);
  AgentConversation(const AgentConversation&) = delete;
  AgentConversation& operator=(const AgentConversation&) = delete;

  [[nodiscard]] const std::string& agent_version() const noexcept { return agent_version_; }
  /// The id that the agent may hold something for; empty when none.
  [[nodiscard]] const std::string& held() const noexcept { return held_; }

  /// These do what AgentClient says of them.
  [[nodiscard]] PreparedDatabases prepare(std::string_view id, const Deadline& deadline,
                                          std::optional<std::chrono::milliseconds> freeze_limit = std::nullopt);
  [[nodiscard]] Report report(std::string_view id, const Deadline& deadline);
  void run_dumps(std::string_view id, const std::vector<std::string>& names, const DumpSinkFor& sink_for,
                 std::chrono::milliseconds silence, const std::stop_token& stop);
  void run_checks(std::string_view id, const std::vector<std::string>& names, const DumpSinkFor& sink_for,
                  std::chrono::milliseconds silence, const std::stop_token& stop);
  /// Throws Unreachable, QuiesceError.
  void finish(std::string_view id, const Deadline& deadline);

 private:
  friend class DumpRun;

  void say_hello(const Deadline& deadline);
  /// Asks for `type` about `id`, and waits for the answer of type `answer` or throws what the agent says against it.
  [[nodiscard]] Json ask(std::string_view type, std::string_view answer, Json request, const Deadline& deadline);

  void send(const Json& message);
  /// Waits until something arrived or the deadline passed, and moves bytes both ways. False after the deadline.
  bool pump(const Deadline& deadline);
  void write_some();
  /// The next frame that is still of interest: what cancelled streams sent is dropped.
  [[nodiscard]] std::optional<Frame> next_frame();
  [[nodiscard]] bool is_rest_of_cancelled(const Frame& frame);
  void cancel(std::uint32_t stream, std::uint64_t credit);

  UniqueFd stream_;
  FrameDecoder decoder_{FrameDecoder::Start::synchronise};
  std::string outbox_;
  std::vector<std::byte> inbox_;
  SteadyClock::time_point last_sent_;
  std::uint32_t next_stream_ = 1;
  /// Streams whose dump-end is still to come, and how many bytes each may still send.
  std::map<std::uint32_t, std::uint64_t> cancelled_;
  std::string agent_version_;
  std::string held_;
};

}  // namespace stillpoint
