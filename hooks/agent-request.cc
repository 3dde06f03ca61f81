// SPDX-License-Identifier: LGPL-2.1-or-later
#include "hooks/agent-request.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "common/frame.hh"
#include "common/priority.hh"
#include "common/protocol.hh"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace stillpoint {

namespace {

UniqueFd connect_to(const std::filesystem::path& socket) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket.native().size() >= sizeof address.sun_path)
    throw Unreachable(fmt::format("{} is too long for a socket's path", socket.native()));
  std::copy(socket.native().begin(), socket.native().end(), address.sun_path);
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    throw_errno<Unreachable>(fmt::format("cannot reach the agent at {}", socket.native()));
  return fd;
}

}  // namespace

Json ask_agent(const std::filesystem::path& socket, const Json& request, const Deadline& deadline) {
  const RaisedPriority raised;
  const UniqueFd fd = connect_to(socket);
  const std::string wire = protocol::encode(request);
  // A request is far smaller than a socket's buffer.
  if (::send(fd.get(), wire.data(), wire.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(wire.size()))
    throw_errno<Unreachable>("cannot send to the agent");
  FrameDecoder decoder;
  std::array<std::byte, 16384> buffer;
  while (!deadline.passed()) {
    pollfd poll{fd.get(), POLLIN, 0};
    if (::poll(&poll, 1, deadline.poll_timeout()) <= 0) continue;
    const ssize_t n = ::recv(fd.get(), buffer.data(), buffer.size(), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n < 0) throw_errno<NoAnswer>("cannot hear the agent");
    if (n == 0) throw NoAnswer("the agent closed the connection without an answer");
    decoder.feed({buffer.data(), static_cast<std::size_t>(n)});
    if (const auto frame = decoder.next()) return protocol::parse_message(frame->payload);
  }
  throw NoAnswer("the agent did not answer in time");
}

}  // namespace stillpoint
