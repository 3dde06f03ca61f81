// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/conversation.hh"

#include "agent/report-file.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "common/protocol-errors.hh"
#include "common/protocol.hh"
#include "config.hh"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <stdexcept>

namespace stillpoint {

namespace {

namespace type = protocol::type;

constexpr std::size_t most_streams = 64;
/// While dumps are on their way the host has reason to be silent: a tool may wait long for its first row.
constexpr std::chrono::minutes stream_silence{15};
constexpr std::chrono::seconds silence_period{5};
/// A companion that never freezes must not hold sessions for ever.
constexpr std::uint64_t most_deadline_ms = 600000;

std::string id_of(const Json& message) {
  std::string id = json_string(message, "id", 64);
  if (!is_id(id)) throw ProtocolError("the id is not an id");
  return id;
}

std::uint32_t stream_of(const Json& message) {
  const auto stream = static_cast<std::uint32_t>(json_uint(message, "stream", UINT32_MAX));
  if (stream == 0) throw ProtocolError("stream 0 is for control messages");
  return stream;
}

}  // namespace

Conversation::Conversation(StillPoint& still_point, Output output)
    : still_point_(still_point),
      output_(std::move(output)),
      silence_timer_(Source::every(silence_period, [this] { check_silence(); })) {}

void Conversation::received(std::span<const std::byte> bytes) {
  try {
    decoder_.feed(bytes);
    while (const auto frame = decoder_.next())
      take(*frame);
  } catch (const ProtocolError& e) {
    if (!still_point_.may_be_frozen()) log_warning("the host broke the protocol: {}", e.what());
    if (!nonce_.empty()) refuse("", e.what());
    close_streams();
    nonce_.clear();
    ++number_;
    decoder_.synchronise();
  }
}

void Conversation::take(const Frame& frame) {
  if (frame.type != FrameType::control) throw ProtocolError("a data frame from the host");
  const Json message = protocol::parse_message(frame.payload);
  heard_ = SteadyClock::now();
  const std::string kind = json_string(message, "type", 32);
  if (kind == type::hello) return hello(message);
  // Of an earlier connection: its rest, or a companion that does not know yet that this agent was started anew.
  if (nonce_.empty()) return refuse(kind, std::string(protocol::not_greeted));
  if (kind == type::prepare) return prepare(message);
  if (kind == type::report) return report(message);
  if (kind == type::dump) return dump(message);
  if (kind == type::check) return check(message);
  if (kind == type::credit) return credit(message);
  if (kind == type::cancel) return cancel(message);
  if (kind == type::finish) return finish(message);
  refuse(kind, "this request is not known");
}

void Conversation::hello(const Json& message) {
  const std::string nonce = json_string(message, "nonce", 64);
  if (json_uint(message, "version") != protocol::version)
    return refuse(std::string(type::hello), fmt::format("this agent speaks version {}", protocol::version));
  if (nonce != nonce_) {
    close_streams();
    nonce_ = nonce;
    owner_gone_ = true;
    ++number_;
  }
  Json answer = protocol::message(type::hello);
  answer["version"] = protocol::version;
  answer["nonce"] = nonce;
  answer["agent"] = STILLPOINT_VERSION;
  send(answer);
}

void Conversation::prepare(const Json& message) {
  const std::string id = id_of(message);
  const std::uint64_t deadline_ms = std::min(json_uint(message, "deadline_ms"), most_deadline_ms);
  std::optional<std::chrono::milliseconds> freeze_limit;
  if (message.contains("freeze_limit_ms"))
    freeze_limit = std::chrono::milliseconds(std::min(json_uint(message, "freeze_limit_ms"), most_deadline_ms));
  const auto go = [this, id, deadline_ms, freeze_limit, number = number_](const std::string&) {
    if (number != number_) return;
    owner_gone_ = false;
    gone_in_window_ = false;
    still_point_.prepare(id, true, std::chrono::milliseconds(deadline_ms), freeze_limit,
                         [this, id, number](const std::string& failure) {
                           if (number != number_) return still_point_.finish([](const std::string&) {});
                           owner_gone_ = !failure.empty();
                           if (!failure.empty()) return refuse(std::string(type::prepare), failure);
                           Json answer = protocol::message(type::prepared);
                           answer["id"] = id;
                           answer["databases"] = still_point_.prepared_databases();
                           answer["clusters"] = still_point_.prepared_clusters();
                           answer["warnings"] = still_point_.warnings();
                           send(answer);
                         });
  };
  if (still_point_.state() == StillPoint::State::idle) return go({});
  // Nor is the barrier of another program's freeze ours to undo.
  if (!owner_gone_ || still_point_.may_be_frozen() || still_point_.state() == StillPoint::State::quiescing)
    return refuse(std::string(type::prepare), fmt::format("still point {} is held", still_point_.id()));
  still_point_.finish(go);
}

void Conversation::report(const Json& message) {
  const std::string id = id_of(message);
  const auto report = still_point_.report();
  if (!report && id == still_point_.id())
    return refuse(std::string(type::report), "the freeze did not call its hook: restart qemu-guest-agent");
  if (!report || report->id != id) return refuse(std::string(type::report), "there is no report of that id");
  Json answer = protocol::message(type::report);
  answer["id"] = id;
  answer["report"] = to_json(fitting(*report));
  send(answer);
}

std::uint64_t Conversation::open_stream(const Json& message) {
  const std::uint32_t stream = stream_of(message);
  if (streams_.contains(stream)) throw ProtocolError("a stream that is open already");
  std::string refusal;
  if (id_of(message) != still_point_.id())
    refusal = "that still point is not held";
  else if (streams_.size() >= most_streams)
    refusal = "too many streams";
  if (!refusal.empty()) {
    send_end(stream, 0, refusal);
    return 0;
  }
  streams_[stream].serial = ++next_serial_;
  return next_serial_;
}

void Conversation::dump(const Json& message) {
  const std::string name = json_string(message, "name", 255);
  const std::uint64_t serial = open_stream(message);
  if (serial == 0) return;
  still_point_.start_dump(name, [this, stream = stream_of(message), serial](const std::shared_ptr<RunningDump>& dump,
                                                                            const std::string& failure) {
    if (!is_open(stream, serial)) return;  // cancelled meanwhile: the tool ends with its owner
    if (!failure.empty()) return end_stream(stream, 0, failure);
    start_stream(stream, dump);
  });
}

void Conversation::check(const Json& message) {
  const std::string name = json_string(message, "name", 255);
  const std::uint64_t serial = open_stream(message);
  if (serial == 0) return;
  still_point_.start_check(
      name, [this, stream = stream_of(message), serial](const std::shared_ptr<RunningDump>& check,
                                                        const std::string& tool, const std::string& failure) {
        if (!is_open(stream, serial)) return;
        if (!failure.empty()) return end_stream(stream, 0, failure);
        streams_.at(stream).tool = tool;
        start_stream(stream, check);
      });
}

void Conversation::start_stream(std::uint32_t number, std::shared_ptr<RunningDump> dump) {
  Stream& stream = streams_.at(number);
  DumpStream::Output output;
  output.send = [this, number](std::string_view bytes) { output_.send(encode_frame(FrameType::data, number, bytes)); };
  output.has_room = output_.has_room;
  output.end = [this, number, serial = stream.serial](std::uint64_t bytes, const std::string& failure) {
    if (is_open(number, serial)) end_stream(number, bytes, failure);
  };
  stream.stream = std::make_unique<DumpStream>(std::move(dump), std::move(output));
  stream.stream->add_credit(stream.credit);
}

bool Conversation::is_open(std::uint32_t stream, std::uint64_t serial) const {
  const auto it = streams_.find(stream);
  return it != streams_.end() && it->second.serial == serial;
}

void Conversation::credit(const Json& message) {
  const auto it = streams_.find(stream_of(message));
  const std::uint64_t bytes = json_uint(message, "bytes");
  if (it == streams_.end()) return;  // it has ended meanwhile
  if (it->second.stream)
    it->second.stream->add_credit(bytes);
  else
    it->second.credit = std::min(it->second.credit + bytes, std::uint64_t{1} << 60);
}

void Conversation::cancel(const Json& message) {
  const std::uint32_t stream = stream_of(message);
  if (streams_.contains(stream)) end_stream(stream, 0, "cancelled");
}

void Conversation::finish(const Json& message) {
  const std::string id = id_of(message);
  const auto answer = [this, id, number = number_](const std::string& failure) {
    if (number != number_) return;
    if (!failure.empty()) return refuse(std::string(type::finish), failure);
    Json finished = protocol::message(type::finished);
    finished["id"] = id;
    send(finished);
  };
  if (still_point_.state() == StillPoint::State::idle || still_point_.id() != id) return answer({});
  close_streams();
  still_point_.finish(answer);
}

void Conversation::end_stream(std::uint32_t stream, std::uint64_t bytes, const std::string& failure) {
  const auto found = streams_.find(stream);
  if (found == streams_.end()) return;
  const std::string tool = std::move(found->second.tool);
  streams_.erase(found);
  send_end(stream, bytes, failure, tool);
}

void Conversation::send_end(std::uint32_t stream, std::uint64_t bytes, const std::string& failure,
                            const std::string& tool) {
  Json answer = protocol::message(type::dump_end);
  answer["stream"] = stream;
  answer["bytes"] = bytes;
  answer["ok"] = failure.empty();
  answer["message"] = failure;
  if (!tool.empty()) answer["tool"] = tool;
  send(answer);
}

void Conversation::close_streams() {
  streams_.clear();
}

void Conversation::has_room() {
  // A stream's end may come while it is resumed: by number, not by iterator.
  std::vector<std::uint32_t> open;
  for (const auto& [number, stream] : streams_)
    open.push_back(number);
  for (const std::uint32_t number : open)
    if (const auto it = streams_.find(number); it != streams_.end() && it->second.stream) it->second.stream->resume();
}

void Conversation::disconnected() {
  close_streams();
  nonce_.clear();
  ++number_;
  decoder_.synchronise();
  if (owner_gone_) return;
  owner_gone_ = true;
  // Inside the window the thaw or the deadline ends it: releasing now would let writers go while the disks are still to
  // be captured.
  gone_in_window_ = still_point_.may_be_frozen() || still_point_.state() == StillPoint::State::quiescing;
  if (!gone_in_window_) still_point_.finish([](const std::string&) {});
}

void Conversation::check_silence() {
  const auto limit = streams_.empty() ? SteadyClock::duration(protocol::host_silence) : stream_silence;
  const StillPoint::State state = still_point_.state();
  const bool held = state == StillPoint::State::prepared || state == StillPoint::State::released;
  if (!held || (!gone_in_window_ && SteadyClock::now() - heard_ < limit)) return;
  log_warning("still point {}: the host is {}, letting go", still_point_.id(), gone_in_window_ ? "gone" : "silent");
  gone_in_window_ = false;
  close_streams();
  heard_ = SteadyClock::now();
  still_point_.finish([](const std::string&) {});
}

void Conversation::send(const Json& message) {
  try {
    output_.send(protocol::encode(message));
  } catch (const std::length_error&) {
    const std::string kind = json_string(message, "type", 32);
    log_error("the answer to '{}' is longer than a message may be", kind);
    refuse(kind, "the answer is longer than a message may be");
  }
}

void Conversation::refuse(const std::string& request, const std::string& why) {
  send(protocol::error_message(request, why));
}

}  // namespace stillpoint
