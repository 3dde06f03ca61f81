// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/agent-client.hh"

#include "common/log.hh"
#include "common/protocol.hh"
#include "host/guest/agent-port.hh"
#include "host/guest/stream-bridge.hh"

namespace stillpoint {

namespace {

using namespace std::chrono_literals;

constexpr std::chrono::milliseconds finish_limit = 5s;

}  // namespace

/// The members' order is that of the layers; they end in reverse.
class AgentClient::Channel {
 public:
  Channel(const Domain& domain, const Deadline& deadline)
      : port(domain, deadline), bridge(domain, std::string(protocol::port_name)), conversation(opened(), deadline) {}

  UniqueFd opened() {
    port.take_over();
    return bridge.take_socket();
  }

  AgentPort port;
  StreamBridge bridge;
  AgentConversation conversation;
};

AgentClient::AgentClient(const Domain& domain, const Deadline& deadline)
    : channel_(std::make_unique<Channel>(domain, deadline)) {}

AgentClient::~AgentClient() {
  if (const std::string held = channel_->conversation.held(); !held.empty()) finish(held);
}

AgentClient::Prepared AgentClient::prepare(std::string_view id, const Deadline& deadline,
                                           std::optional<std::chrono::milliseconds> freeze_limit) {
  return channel_->conversation.prepare(id, deadline, freeze_limit);
}

Report AgentClient::report(std::string_view id, const Deadline& deadline) {
  return channel_->conversation.report(id, deadline);
}

void AgentClient::run_dumps(std::string_view id, const std::vector<std::string>& names, const DumpSinkFor& sink_for,
                            std::chrono::milliseconds silence, const std::stop_token& stop) {
  channel_->conversation.run_dumps(id, names, sink_for, silence, stop);
}

void AgentClient::run_checks(std::string_view id, const std::vector<std::string>& names, const DumpSinkFor& sink_for,
                             std::chrono::milliseconds silence, const std::stop_token& stop) {
  channel_->conversation.run_checks(id, names, sink_for, silence, stop);
}

void AgentClient::finish(std::string_view id) noexcept {
  try {
    channel_->conversation.finish(id, Deadline(finish_limit));
  } catch (const std::exception& error) {
    log_warning("the agent does not confirm that it let go: {}", error.what());
  }
}

}  // namespace stillpoint
