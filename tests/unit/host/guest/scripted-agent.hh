// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"
#include "common/frame.hh"
#include "common/json.hh"

#include <functional>
#include <string>
#include <string_view>
#include <thread>

/// The agent's end of a channel, in a thread that does what a test says: also what no agent should do.
class ScriptedAgent {
 public:
  class Port {
   public:
    explicit Port(stillpoint::UniqueFd fd) : fd_(std::move(fd)) {}

    void send_bytes(std::string_view bytes);
    void send(const stillpoint::Json& message);
    void send_data(std::uint32_t stream, std::string_view bytes);
    /// The next message of this type; those before it are dropped. An empty object when the other side has closed.
    stillpoint::Json receive(std::string_view type);
    /// Answers one hello as an agent does.
    void answer_hello();
    /// Reads until the other side closes.
    void wait_for_close();
    [[nodiscard]] std::uint64_t granted() const { return granted_; }

   private:
    bool read_some();

    stillpoint::UniqueFd fd_;
    stillpoint::FrameDecoder decoder_;
    std::uint64_t granted_ = 0;
  };

  explicit ScriptedAgent(std::function<void(Port&)> script);
  ~ScriptedAgent();

  /// The companion's end. Once only.
  stillpoint::UniqueFd take() { return std::move(ours_); }

 private:
  stillpoint::UniqueFd ours_;
  std::thread thread_;
};
