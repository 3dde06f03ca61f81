// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/dump-stream.hh"
#include "agent/main-loop.hh"
#include "agent/still-point.hh"
#include "common/clock.hh"
#include "common/frame.hh"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>

namespace stillpoint {

/// The agent's side of the conversation on the channel (docs/protocol.md). The host is not trusted: what breaks the
/// protocol ends the conversation, and the next `hello` begins a new one.
class Conversation {
 public:
  struct Output {
    std::function<void(std::string frame)> send;
    std::function<bool()> has_room;
  };

  Conversation(StillPoint& still_point, Output output);
  Conversation(const Conversation&) = delete;
  Conversation& operator=(const Conversation&) = delete;

  void received(std::span<const std::byte> bytes);
  void has_room();
  /// The host has gone: its streams end, and what is held for it is let go.
  void disconnected();

 private:
  void take(const Frame& frame);
  void hello(const Json& message);
  void prepare(const Json& message);
  void report(const Json& message);
  void dump(const Json& message);
  void check(const Json& message);
  void credit(const Json& message);
  void cancel(const Json& message);
  void finish(const Json& message);

  void send(const Json& message);
  void refuse(const std::string& request, const std::string& why);
  /// Opens the stream that the message asks for, about a dump's name; 0 when it was refused.
  [[nodiscard]] std::uint64_t open_stream(const Json& message);
  void start_stream(std::uint32_t stream, std::shared_ptr<RunningDump> dump);
  [[nodiscard]] bool is_open(std::uint32_t stream, std::uint64_t serial) const;
  void end_stream(std::uint32_t stream, std::uint64_t bytes, const std::string& failure);
  void send_end(std::uint32_t stream, std::uint64_t bytes, const std::string& failure, const std::string& tool = {});
  void close_streams();
  void check_silence();

  StillPoint& still_point_;
  Output output_;
  FrameDecoder decoder_{FrameDecoder::Start::synchronise};
  std::string nonce_;            ///< empty before the first hello
  std::uint64_t number_ = 0;     ///< of the connection: answers to an earlier one are dropped
  bool owner_gone_ = true;       ///< the host that prepared is not the one we talk to
  bool gone_in_window_ = false;  ///< then the thaw comes first
  struct Stream {
    std::unique_ptr<DumpStream> stream;  ///< empty while the tool starts
    std::uint64_t credit = 0;            ///< given while the tool starts
    std::string tool;                    ///< of a check
    std::uint64_t serial = 0;            ///< tells it from an earlier stream of the same number
  };
  std::map<std::uint32_t, Stream> streams_;
  std::uint64_t next_serial_ = 0;
  SteadyClock::time_point heard_ = SteadyClock::now();
  Source silence_timer_;
};

}  // namespace stillpoint
