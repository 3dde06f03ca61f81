// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/unit/host/guest/scripted-agent.hh"

#include "common/protocol.hh"

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <vector>

using namespace stillpoint;

void ScriptedAgent::Port::send_bytes(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;  // the other side hung up on us, as it should
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
}

void ScriptedAgent::Port::send(const Json& message) {
  send_bytes(protocol::encode(message));
}

void ScriptedAgent::Port::send_data(std::uint32_t stream, std::string_view bytes) {
  send_bytes(encode_frame(FrameType::data, stream, bytes));
}

bool ScriptedAgent::Port::read_some() {
  std::vector<std::byte> bytes(65536);
  const ssize_t got = ::recv(fd_.get(), bytes.data(), bytes.size(), 0);
  if (got <= 0) return false;
  decoder_.feed(std::span(bytes).first(static_cast<std::size_t>(got)));
  return true;
}

Json ScriptedAgent::Port::receive(std::string_view type) {
  while (true) {
    while (const auto frame = decoder_.next()) {
      Json message = protocol::parse_message(frame->payload);
      if (message["type"] == protocol::type::credit) granted_ += message["bytes"].get<std::uint64_t>();
      if (message["type"] == type) return message;
    }
    if (!read_some()) return Json::object();
  }
}

void ScriptedAgent::Port::answer_hello() {
  const Json hello = receive(protocol::type::hello);
  if (hello.empty()) return;
  send(Json{{"type", "hello"}, {"version", 1}, {"nonce", hello["nonce"]}, {"agent", "7.1"}});
}

void ScriptedAgent::Port::wait_for_close() {
  while (read_some()) {
  }
}

ScriptedAgent::ScriptedAgent(std::function<void(Port&)> script) {
  std::array<int, 2> ends{};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
  ours_ = UniqueFd(ends[0]);
  thread_ = std::thread([script = std::move(script), fd = ends[1]] {
    Port port{UniqueFd(fd)};
    script(port);
  });
}

ScriptedAgent::~ScriptedAgent() {
  ours_.reset();
  thread_.join();
}
