// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/guest/agent-conversation.hh"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

namespace stillpoint {

/// One call of AgentConversation::run_dumps() or run_checks().
class DumpRun {
 public:
  /// `request`: protocol::type::dump or check.
  DumpRun(AgentConversation& conversation, std::string_view request, std::string id,
          const std::vector<std::string>& names, const DumpSinkFor& sink_for, std::chrono::milliseconds silence,
          const std::stop_token& stop);

  void run();

 private:
  struct Stream {
    std::string name;
    std::unique_ptr<DumpSink> sink;
    std::uint64_t credit = 0;    ///< bytes that the agent may still send
    std::uint64_t received = 0;  ///< bytes
    std::uint64_t consumed = 0;  ///< bytes that the sink has taken since credit was last given
    SteadyClock::time_point last_heard;
  };
  using Streams = std::map<std::uint32_t, Stream>;

  void run_all();
  void start_some();
  void take(const Frame& frame);
  void take_data(const Frame& frame);
  void take_end(const Json& message);
  void take_error(const Json& message);
  void end(Streams::iterator stream, const std::string& failure);
  void cancel(Streams::iterator stream);
  void give_up_silent_ones(std::chrono::milliseconds limit);
  void give_sign_of_life();
  void cancel_all() noexcept;
  template <typename F>
  void outside_of_time(F work);

  AgentConversation& conversation_;
  const std::string_view request_;
  const std::string id_;
  const std::vector<std::string>& names_;
  const DumpSinkFor& sink_for_;
  const std::chrono::milliseconds silence_;
  const std::stop_token& stop_;
  std::size_t started_ = 0;
  Streams streams_;
};

}  // namespace stillpoint
