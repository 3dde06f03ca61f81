// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/control-socket.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "common/protocol.hh"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace stillpoint {

namespace {

namespace type = protocol::type;

constexpr std::size_t most_connections = 16;
constexpr std::size_t most_site_hooks = 1000;
/// For a connection to say what it wants.
constexpr std::chrono::seconds request_limit{5};

sockaddr_un address_of(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.native().size() >= sizeof address.sun_path)
    throw ConfigError(fmt::format("{} is too long for a socket's path", path.native()));
  std::copy(path.native().begin(), path.native().end(), address.sun_path);
  return address;
}

bool from_root(int fd) {
  ucred peer{};
  socklen_t length = sizeof peer;
  return ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.uid == 0;
}

std::vector<SiteHookReport> site_hooks_of(const Json& request) {
  std::vector<SiteHookReport> hooks;
  for (const Json& hook : json_array(request, "hooks", most_site_hooks))
    hooks.push_back({json_string(hook, "name", 1024), std::chrono::milliseconds(json_uint_or(hook, "took_ms", 0)),
                     json_string_or(hook, "failure", "")});
  return hooks;
}

}  // namespace

struct ControlSocket::Connection {
  std::uint64_t number;
  UniqueFd fd;
  FrameDecoder decoder{};
  Source source{};
  Source limit{};
  bool asked = false;         ///< a request is being answered
  bool asked_freeze = false;  ///< and it was for the barrier
};

ControlSocket::ControlSocket(const std::filesystem::path& path, StillPoint& still_point)
    : path_(path), still_point_(still_point) {
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  if (error) throw_storage_errno(fmt::format("cannot make {}", path.parent_path().native()), error.value());
  const sockaddr_un address = address_of(path);
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(probe.get(), generic, sizeof address) == 0)
    throw ConfigError(fmt::format("another agent listens on {}", path.native()));
  ::unlink(path.c_str());
  listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const mode_t before = ::umask(0177);
  const int bound = ::bind(listener_.get(), generic, sizeof address);
  ::umask(before);
  if (bound != 0 || ::listen(listener_.get(), most_connections) != 0)
    throw_errno<ConfigError>(fmt::format("cannot listen on {}", path.native()));
  source_ = Source::watch(listener_.get(), G_IO_IN, [this](GIOCondition) { accept(); });
}

ControlSocket::~ControlSocket() {
  ::unlink(path_.c_str());
}

void ControlSocket::accept() {
  UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  // One that is refused sees the end of the connection.
  if (!fd || !from_root(fd.get()) || connections_.size() >= most_connections) return;
  const auto connection = connections_.insert(connections_.end(), {++next_number_, std::move(fd)});
  connection->source =
      Source::watch(connection->fd.get(), G_IO_IN, [this, connection](GIOCondition) { read(connection); });
  connection->limit = Source::after(request_limit, [this, connection] {
    if (!connection->asked) close(connection);
  });
}

void ControlSocket::read(Connections::iterator connection) {
  std::array<std::byte, 16384> buffer;
  const ssize_t n = ::recv(connection->fd.get(), buffer.data(), buffer.size(), 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  // What follows the one request is nothing to us, but its sender would have to be read for ever.
  if (n <= 0 || connection->asked) return close(connection);
  try {
    connection->decoder.feed({buffer.data(), static_cast<std::size_t>(n)});
    const auto frame = connection->decoder.next();
    if (!frame) return;
    connection->asked = true;
    answer(connection, protocol::parse_message(frame->payload));
  } catch (const ProtocolError& e) {
    reply(connection->number, protocol::error_message("", e.what()));
  }
}

void ControlSocket::answer(Connections::iterator connection, const Json& request) {
  const std::string kind = json_string(request, "type", 32);
  const auto reply_to = [this, number = connection->number](const Json& message) { reply(number, message); };
  if (kind == type::freeze) {
    connection->asked_freeze = true;
    const std::chrono::milliseconds limit(json_uint(request, "timeout_ms", 3600000));
    still_point_.quiesce(limit, site_hooks_of(request), [this, reply_to](const std::string& failure) {
      Json quiesced = protocol::message(type::quiesced);
      quiesced["id"] = still_point_.id();
      reply_to(failure.empty() ? quiesced : protocol::error_message(type::freeze, failure));
    });
  } else if (kind == type::thaw) {
    still_point_.thawed([reply_to](const std::string&) { reply_to(protocol::message(type::released)); });
  } else {
    reply_to(protocol::error_message(kind, "this request is not known"));
  }
}

void ControlSocket::reply(std::uint64_t number, const Json& message) {
  const auto connection = std::find_if(connections_.begin(), connections_.end(),
                                       [number](const Connection& c) { return c.number == number; });
  const std::string wire = protocol::encode(message);
  // An answer is far smaller than a socket's buffer: what cannot be sent at once has no reader.
  const bool sent = connection != connections_.end() && ::send(connection->fd.get(), wire.data(), wire.size(),
                                                               MSG_NOSIGNAL) == static_cast<ssize_t>(wire.size());
  if (!sent && json_string(message, "type") == type::quiesced) still_point_.abandon_barrier();
  if (connection == connections_.end()) return;
  connection->asked_freeze = false;
  close(connection);
}

void ControlSocket::close(Connections::iterator connection) {
  const bool hook_died = connection->asked_freeze;
  connections_.erase(connection);
  if (hook_died) still_point_.abandon_barrier();
}

}  // namespace stillpoint
