// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/dump-run.hh"

#include "common/errors.hh"
#include "common/json.hh"
#include "common/protocol-errors.hh"
#include "common/protocol.hh"
#include "host/guest/guest-text.hh"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;
namespace type = protocol::type;

/// Well below protocol::host_silence.
constexpr std::chrono::milliseconds sign_of_life_interval = 30s;
constexpr std::chrono::milliseconds longest_wait = 1s;
constexpr std::chrono::milliseconds cancel_limit = 5s;

}  // namespace

DumpRun::DumpRun(AgentConversation& conversation, std::string_view request, std::string id,
                 const std::vector<std::string>& names, const DumpSinkFor& sink_for, std::chrono::milliseconds silence,
                 const std::stop_token& stop)
    : conversation_(conversation),
      request_(request),
      id_(std::move(id)),
      names_(names),
      sink_for_(sink_for),
      silence_(silence),
      stop_(stop) {}

void DumpRun::run() {
  try {
    run_all();
  } catch (const ProtocolError&) {
    throw;  // the conversation is of no further use
  } catch (...) {
    cancel_all();
    throw;
  }
}

void DumpRun::run_all() {
  while (true) {
    start_some();
    if (streams_.empty()) return;
    if (stop_.stop_requested()) throw Interrupted("stopped while dumps were read");
    while (const std::optional<Frame> frame = conversation_.next_frame())
      take(*frame);
    if (streams_.size() < dumps_at_once && (streams_.empty() || started_ < names_.size())) continue;
    give_sign_of_life();
    // Silence means that the agent sends nothing only when all that has arrived is read; but who floods us with
    // something else does not escape either.
    const bool arrived = conversation_.pump(Deadline(std::min(longest_wait, silence_)));
    give_up_silent_ones(arrived ? 2 * silence_ : silence_);
  }
}

/// The time that a slow sink takes is not the agent's.
template <typename F>
void DumpRun::outside_of_time(F work) {
  const auto begun = SteadyClock::now();
  work();
  const auto took = SteadyClock::now() - begun;
  for (auto& [number, stream] : streams_)
    stream.last_heard += took;
}

void DumpRun::start_some() {
  while (streams_.size() < dumps_at_once && started_ < names_.size()) {
    const std::string& name = names_[started_++];
    const std::uint32_t number = conversation_.next_stream_++;
    Stream stream{name, nullptr, dump_window, 0, 0, SteadyClock::now()};
    outside_of_time([&] { stream.sink = sink_for_(name); });
    stream.last_heard = SteadyClock::now();
    streams_.emplace(number, std::move(stream));
    conversation_.send(Json{{"type", request_}, {"id", id_}, {"stream", number}, {"name", name}});
    conversation_.send(Json{{"type", type::credit}, {"stream", number}, {"bytes", dump_window}});
  }
}

void DumpRun::take(const Frame& frame) {
  if (frame.type == FrameType::data) return take_data(frame);
  const Json message = protocol::parse_message(frame.payload);
  const std::string kind = json_string(message, "type", 32);
  if (kind == type::dump_end) take_end(message);
  if (kind == type::error) take_error(message);
}

void DumpRun::take_data(const Frame& frame) {
  const auto found = streams_.find(frame.stream);
  if (found == streams_.end()) throw ProtocolError("the agent sends dump bytes that nobody asked for");
  Stream& stream = found->second;
  if (frame.payload.size() > stream.credit) throw ProtocolError("the agent sends more than it may");
  stream.credit -= frame.payload.size();
  stream.received += frame.payload.size();
  stream.last_heard = SteadyClock::now();
  outside_of_time([&] { stream.sink->write(as_bytes(frame.payload)); });
  stream.consumed += frame.payload.size();
  if (stream.consumed < dump_window / 4) return;
  stream.credit += stream.consumed;
  conversation_.send(Json{{"type", type::credit}, {"stream", frame.stream}, {"bytes", stream.consumed}});
  stream.consumed = 0;
}

void DumpRun::take_end(const Json& message) {
  const auto found = streams_.find(static_cast<std::uint32_t>(json_uint(message, "stream", UINT32_MAX)));
  if (found == streams_.end()) throw ProtocolError("the agent ends a dump that does not run");
  const std::uint64_t bytes = json_uint(message, "bytes");
  const bool ok = json_bool(message, "ok");
  const std::string words = shown(json_string_or(message, "message", "", 65536));
  if (const std::string tool = shown(json_string_or(message, "tool", "", 64)); !tool.empty())
    outside_of_time([&] { found->second.sink->checked_by(tool); });
  if (!ok) return end(found, words.empty() ? "the dump failed in the guest" : words);
  if (bytes != found->second.received)
    return end(found,
               fmt::format("the agent says that it sent {} bytes, and {} arrived", bytes, found->second.received));
  end(found, {});
}

/// An error names the request alone; requests are answered in order, so it is about the first that got no byte yet.
void DumpRun::take_error(const Json& message) {
  if (json_string_or(message, "message", "", 65536) == protocol::not_greeted)
    throw Unreachable("the agent was started anew: what it held is gone");
  if (json_string_or(message, "request", "", 32) != request_) return;
  auto found = streams_.end();
  if (message.contains("stream"))
    found = streams_.find(static_cast<std::uint32_t>(json_uint(message, "stream", UINT32_MAX)));
  else
    found = std::find_if(streams_.begin(), streams_.end(), [](const auto& it) { return it.second.received == 0; });
  const std::string words = shown(json_string_or(message, "message", "", 65536));
  if (found != streams_.end()) end(found, words.empty() ? "the agent refuses the dump" : words);
}

void DumpRun::end(Streams::iterator stream, const std::string& failure) {
  const std::unique_ptr<DumpSink> sink = std::move(stream->second.sink);
  streams_.erase(stream);
  outside_of_time([&] { sink->end(failure); });
}

void DumpRun::cancel(Streams::iterator stream) {
  conversation_.cancel(stream->first, stream->second.credit);
}

void DumpRun::give_up_silent_ones(std::chrono::milliseconds limit) {
  const auto now = SteadyClock::now();
  for (auto stream = streams_.begin(); stream != streams_.end();) {
    const auto current = stream++;
    if (now - current->second.last_heard < limit) continue;
    cancel(current);
    end(current, fmt::format("the agent sent nothing for {} ms", silence_.count()));
  }
}

void DumpRun::give_sign_of_life() {
  if (SteadyClock::now() - conversation_.last_sent_ < sign_of_life_interval || streams_.empty()) return;
  conversation_.send(Json{{"type", type::credit}, {"stream", streams_.begin()->first}, {"bytes", 0}});
}

/// Leaves the conversation usable for finish(): what the agent still has under way is awaited and dropped.
void DumpRun::cancel_all() noexcept {
  try {
    for (auto stream = streams_.begin(); stream != streams_.end(); ++stream)
      cancel(stream);
    streams_.clear();
    const Deadline deadline(cancel_limit);
    while (true) {
      while (conversation_.next_frame()) {
      }
      if (conversation_.cancelled_.empty() || deadline.passed()) return;
      conversation_.pump(deadline);
    }
  } catch (const std::exception&) {
    streams_.clear();  // the channel is gone, or cannot be believed: there is nobody to cancel with
  }
}

}  // namespace stillpoint
