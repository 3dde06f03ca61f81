// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/agent-conversation.hh"

#include "common/errors.hh"
#include "common/json.hh"
#include "common/protocol.hh"
#include "host/guest/dump-run.hh"
#include "host/guest/guest-text.hh"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;
namespace type = protocol::type;

/// The agent notices a hot-plugged port some time after it appears, and what it reads before that is lost.
constexpr std::chrono::milliseconds hello_interval = 500ms;
constexpr std::size_t read_bytes = std::size_t{256} << 10;
constexpr std::size_t most_databases = 4096;
constexpr std::size_t most_warnings = 1024;
constexpr std::size_t longest_name = 1024;
constexpr std::size_t most_clusters = 64;
constexpr std::size_t longest_cluster = 128;

std::string text_field(const Json& object, std::string_view field, std::size_t longest = 4096) {
  return shown(json_string_or(object, field, "", longest));
}

PreparedDatabases parse_prepared(const Json& message) {
  PreparedDatabases prepared;
  for (const Json& entry : json_array(message, "databases", most_databases)) {
    if (!entry.is_object()) throw ProtocolError("the agent lists a database that is no object");
    PreparedDatabase database;
    database.engine = shown(json_string(entry, "engine", 64));
    database.instance = shown(json_string(entry, "instance", longest_name));
    database.database = text_field(entry, "database", longest_name);
    database.ready = json_bool(entry, "ready");
    database.reason = text_field(entry, "reason");
    prepared.databases.push_back(std::move(database));
  }
  if (message.contains("clusters"))
    for (const Json& cluster : json_array(message, "clusters", most_clusters)) {
      if (!cluster.is_string() || cluster.get_ref<const std::string&>().size() > longest_cluster)
        throw ProtocolError("the agent names a cluster that is no short text");
      prepared.clusters.push_back(shown(cluster.get_ref<const std::string&>()));
    }
  for (const Json& warning : json_array(message, "warnings", most_warnings)) {
    if (!warning.is_string()) throw ProtocolError("the agent gives a warning that is no text");
    prepared.warnings.push_back(shown(warning.get_ref<const std::string&>()));
  }
  return prepared;
}

}  // namespace

AgentConversation::AgentConversation(UniqueFd stream, const Deadline& deadline)
    : stream_(std::move(stream)), inbox_(read_bytes), last_sent_(SteadyClock::now()) {
  say_hello(deadline);
}

void AgentConversation::send(const Json& message) {
  outbox_ += protocol::encode(message);
  last_sent_ = SteadyClock::now();
}

void AgentConversation::write_some() {
  while (!outbox_.empty()) {
    const ssize_t sent = ::send(stream_.get(), outbox_.data(), outbox_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) throw_errno<Unreachable>("cannot write to the agent's channel");
    outbox_.erase(0, static_cast<std::size_t>(sent));
  }
}

bool AgentConversation::pump(const Deadline& deadline) {
  write_some();
  pollfd waits{stream_.get(), static_cast<short>(outbox_.empty() ? POLLIN : POLLIN | POLLOUT), 0};
  if (::poll(&waits, 1, deadline.poll_timeout()) <= 0) return !deadline.passed();
  if ((waits.revents & POLLOUT) != 0) write_some();
  if ((waits.revents & ~POLLOUT) == 0) return true;
  const ssize_t got = ::recv(stream_.get(), inbox_.data(), inbox_.size(), MSG_DONTWAIT);
  if (got == 0) throw Unreachable("the channel to the agent was closed");
  if (got < 0 && errno != EINTR && errno != EAGAIN) throw_errno<Unreachable>("cannot read from the agent's channel");
  if (got > 0) decoder_.feed(std::span(inbox_).first(static_cast<std::size_t>(got)));
  return true;
}

void AgentConversation::say_hello(const Deadline& deadline) {
  const std::string nonce = random_id();
  std::string complaint;
  auto again_at = SteadyClock::now();
  while (true) {
    if (SteadyClock::now() >= again_at && outbox_.empty()) {
      // An earlier connection may have left the beginning of a frame whose end never comes.
      decoder_.synchronise();
      send(Json{{"type", type::hello}, {"version", protocol::version}, {"nonce", nonce}});
      again_at = SteadyClock::now() + hello_interval;
    }
    try {
      while (const std::optional<Frame> frame = decoder_.next()) {
        if (frame->type != FrameType::control) continue;
        const Json message = protocol::parse_message(frame->payload);
        const std::string kind = json_string(message, "type", 32);
        if (kind == type::error && json_string_or(message, "request", "", 32) == type::hello)
          complaint = text_field(message, "message");
        if (kind != type::hello || json_string_or(message, "nonce", "", 64) != nonce) continue;
        if (const std::uint64_t version = json_uint(message, "version"); version != protocol::version)
          throw Unreachable(
              fmt::format("the agent speaks version {} of the protocol, not {}", version, protocol::version),
              "upgrade stillpoint-agent in the guest");
        agent_version_ = text_field(message, "agent", 64);
        return;
      }
    } catch (const ProtocolError&) {
      decoder_.synchronise();  // not said to us: rests of an earlier connection
    }
    static_cast<void>(pump(deadline.at_most(hello_interval)));
    if (deadline.passed())
      throw Unreachable(complaint.empty() ? "no stillpoint-agent answers in the guest"
                                          : fmt::format("the agent refuses the connection: {}", complaint),
                        "look whether it is installed and runs: systemctl status stillpoint-agent");
  }
}

bool AgentConversation::is_rest_of_cancelled(const Frame& frame) {
  if (cancelled_.empty()) return false;
  if (frame.type == FrameType::data) {
    const auto found = cancelled_.find(frame.stream);
    if (found == cancelled_.end()) return false;
    if (frame.payload.size() > found->second) throw ProtocolError("the agent sends more than it may");
    found->second -= frame.payload.size();
    return true;
  }
  const Json message = protocol::parse_message(frame.payload);
  if (json_string(message, "type", 32) != type::dump_end) return false;
  return cancelled_.erase(static_cast<std::uint32_t>(json_uint(message, "stream", UINT32_MAX))) > 0;
}

std::optional<Frame> AgentConversation::next_frame() {
  while (true) {
    std::optional<Frame> frame = decoder_.next();
    if (!frame || !is_rest_of_cancelled(*frame)) return frame;
  }
}

void AgentConversation::cancel(std::uint32_t stream, std::uint64_t credit) {
  cancelled_.emplace(stream, credit);
  send(Json{{"type", type::cancel}, {"stream", stream}});
  write_some();  // nobody may wait for anything after this
}

Json AgentConversation::ask(std::string_view type, std::string_view answer, Json request, const Deadline& deadline) {
  const std::string id = request.at("id");
  send(request);
  while (true) {
    while (const std::optional<Frame> frame = next_frame()) {
      if (frame->type == FrameType::data) throw ProtocolError("the agent sends dump bytes that nobody asked for");
      Json message = protocol::parse_message(frame->payload);
      const std::string kind = json_string(message, "type", 32);
      if (kind == answer && json_string_or(message, "id", "", 64) == id) return message;
      if (kind == type::error && json_string_or(message, "request", "", 32) == type)
        throw QuiesceError(fmt::format("the agent refuses to {}: {}", type, text_field(message, "message")),
                           "the guest's journal says more: journalctl -u stillpoint-agent");
      // Late answers to what we no longer wait for, and words of a later agent: no harm in them.
    }
    static_cast<void>(pump(deadline));
    // Whatever else it may say meanwhile.
    if (deadline.passed())
      throw Unreachable(fmt::format("the agent does not answer '{}' in time", type),
                        "look at the guest's journal: journalctl -u stillpoint-agent");
  }
}

PreparedDatabases AgentConversation::prepare(std::string_view id, const Deadline& deadline,
                                             std::optional<std::chrono::milliseconds> freeze_limit) {
  held_ = id;
  Json request{
      {"type", type::prepare}, {"id", id}, {"deadline_ms", static_cast<std::uint64_t>(deadline.left().count())}};
  if (freeze_limit) request["freeze_limit_ms"] = static_cast<std::uint64_t>(freeze_limit->count());
  return parse_prepared(ask(type::prepare, type::prepared, std::move(request), deadline));
}

Report AgentConversation::report(std::string_view id, const Deadline& deadline) {
  const Json answer = ask(type::report, type::report, Json{{"type", type::report}, {"id", id}}, deadline);
  Report report = parse_report(json_object(answer, "report"));
  if (report.id != id) throw ProtocolError("the agent's report is of another still point");
  return report;
}

void AgentConversation::run_dumps(std::string_view id, const std::vector<std::string>& names,
                                  const DumpSinkFor& sink_for, std::chrono::milliseconds silence,
                                  const std::stop_token& stop) {
  DumpRun(*this, type::dump, std::string(id), names, sink_for, silence, stop).run();
}

void AgentConversation::run_checks(std::string_view id, const std::vector<std::string>& names,
                                   const DumpSinkFor& sink_for, std::chrono::milliseconds silence,
                                   const std::stop_token& stop) {
  DumpRun(*this, type::check, std::string(id), names, sink_for, silence, stop).run();
}

void AgentConversation::finish(std::string_view id, const Deadline& deadline) {
  static_cast<void>(ask(type::finish, type::finished, Json{{"type", type::finish}, {"id", id}}, deadline));
  if (held_ == id) held_.clear();
}

}  // namespace stillpoint
