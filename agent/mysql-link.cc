// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-link.hh"

#include "common/errors.hh"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace stillpoint::mysql {
namespace {

constexpr short gone = POLLHUP | POLLERR | POLLNVAL;

UniqueFd connect_to(const std::string& path, const std::optional<OsUser>& user) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) throw Unreachable(fmt::format("the path {} is too long", path));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) throw_errno<Unreachable>("cannot make a socket");
  const EffectiveUser seen_as(user);
  // A unix socket connects at once or not at all.
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    throw_errno<Unreachable>(fmt::format("cannot connect to {}", path));
  return fd;
}

}  // namespace

void Flow::append(std::span<const std::byte> bytes) {
  if (buffer_.empty()) buffer_.resize(capacity_);
  if (begin_ == end_) begin_ = end_ = 0;
  if (bytes.size() > capacity_ - end_) throw std::length_error("a flow of the relay is full");
  std::copy(bytes.begin(), bytes.end(), buffer_.begin() + static_cast<std::ptrdiff_t>(end_));
  end_ += bytes.size();
}

bool Flow::receive(int fd) {
  if (buffer_.empty()) buffer_.resize(capacity_);
  if (begin_ == end_) begin_ = end_ = 0;
  if (end_ == capacity_ || ended_) return true;
  const ssize_t n = ::recv(fd, buffer_.data() + end_, capacity_ - end_, MSG_DONTWAIT);
  if (n > 0) end_ += static_cast<std::size_t>(n);
  if (n == 0) ended_ = true;
  return n >= 0 || errno == EAGAIN || errno == EINTR;
}

bool Flow::send(int fd) {
  while (begin_ < end_) {
    const ssize_t n = ::send(fd, buffer_.data() + begin_, end_ - begin_, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    begin_ += static_cast<std::size_t>(n);
  }
  begin_ = end_ = 0;
  return true;
}

Link::Link(UniqueFd listener, std::string path, std::optional<GateScript> script)
    : listener_(std::move(listener)), path_(std::move(path)), script_(std::move(script)) {}

Link::~Link() {
  if (listener_) ::unlink(path_.c_str());
}

void Link::close(std::string reason) {
  if (state_ == LinkState::closed) return;
  state_ = LinkState::closed;
  failure_ = std::move(reason);
  if (listener_) ::unlink(path_.c_str());
  listener_.reset();
  client_.reset();
  server_.reset();
}

void Link::set_pins(std::vector<std::string> statements) {
  if (script_) script_->pins = std::move(statements);
}

void Link::open_snapshot() {
  if (state_ != LinkState::ready) return;
  state_ = LinkState::opening;
  say(snapshot_query_);
}

void Link::pass() {
  if (state_ != LinkState::open) return;
  state_ = LinkState::passing;
  down_.append(as_bytes(snapshot_answer_));
  if (!down_.send(client_.get())) close("the dump tool has gone");
}

bool Link::answering() const noexcept {
  return state_ == LinkState::settling || state_ == LinkState::opening || state_ == LinkState::pinning;
}

std::array<pollfd, 3> Link::interests() const {
  std::array<pollfd, 3> fds{{{-1, 0, 0}, {-1, 0, 0}, {-1, 0, 0}}};
  if (state_ == LinkState::waiting) fds[0] = {listener_.get(), POLLIN, 0};
  if (!client_ || !server_) return fds;
  short client = 0;
  short server = 0;
  if (state_ == LinkState::talking || state_ == LinkState::passing) {
    // Commands are read along only when the one before has gone out.
    const bool room = state_ == LinkState::talking ? up_.empty() : up_.has_room();
    if (room && !up_.ended()) client |= POLLIN;
    if (!down_.empty()) client |= POLLOUT;
    if (down_.has_room() && !down_.ended()) server |= POLLIN;
    if (!up_.empty()) server |= POLLOUT;
    // Without anything to do, a hang-up must not wake us again and again.
    fds[1] = {client != 0 ? client_.get() : -1, client, 0};
    fds[2] = {server != 0 ? server_.get() : -1, server, 0};
  } else {
    // The client has nothing to say now: only its end is of interest. The server answers, or says good-bye.
    server |= POLLIN;
    if (!up_.empty()) server |= POLLOUT;
    fds[1] = {client_.get(), 0, 0};
    fds[2] = {server_.get(), server, 0};
  }
  return fds;
}

void Link::serve(const std::array<pollfd, 3>& events, const std::string& server_socket,
                 const std::optional<OsUser>& user) {
  if (deadline_ && deadline_->passed()) return close("the server did not answer in time");
  if (state_ == LinkState::closed) return;
  if (state_ == LinkState::waiting) {
    if (events[0].revents != 0) accept(server_socket, user);
    return;
  }
  if (events[1].revents == 0 && events[2].revents == 0) return;
  if (state_ == LinkState::passing)
    serve_flows(events[1].revents, events[2].revents);
  else
    serve_gate(events[1].revents, events[2].revents);
}

void Link::accept(const std::string& server_socket, const std::optional<OsUser>& user) {
  client_.reset(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!client_) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
    return close(errno_message("cannot accept a client", errno));
  }
  try {
    server_ = connect_to(server_socket, user);
  } catch (const Error& error) {
    return close(error.what());
  }
  ::unlink(path_.c_str());
  listener_.reset();
  state_ = script_ ? LinkState::talking : LinkState::passing;
}

void Link::serve_flows(short client, short server) {
  bool alive = true;
  if ((client & (POLLIN | gone)) != 0) alive = up_.receive(client_.get());
  if (alive && !up_.empty()) alive = up_.send(server_.get());
  if (alive && (server & (POLLIN | gone)) != 0) alive = down_.receive(server_.get());
  if (alive && !down_.empty()) alive = down_.send(client_.get());
  if (!alive) return close("the connection broke");
  if (up_.ended() && up_.empty()) ::shutdown(server_.get(), SHUT_WR);
  if (down_.ended() && down_.empty()) close(up_.ended() ? "" : "the server closed the connection");
}

void Link::serve_gate(short client, short server) {
  if (state_ == LinkState::talking) {
    if ((client & (POLLIN | gone)) != 0) read_commands();
    if (state_ == LinkState::talking && (server & (POLLIN | gone)) != 0) {
      if (!down_.receive(server_.get()) || down_.ended()) return close("the server closed the connection");
    }
  } else {
    if ((client & gone) != 0) return close("the dump tool has gone");
    if ((server & (POLLIN | gone)) != 0) read_answer();
  }
  if (state_ == LinkState::closed) return;
  if (!up_.send(server_.get())) return close("the server closed the connection");
  if (!down_.send(client_.get())) return close("the dump tool has gone");
}

void Link::read_commands() {
  std::array<std::byte, 16384> buffer;
  // What is read must fit into the flow, with what is kept back of an unfinished command.
  const std::size_t room = std::min(buffer.size(), up_bytes / 4);
  if (!up_.empty()) return;
  const ssize_t n = ::recv(client_.get(), buffer.data(), room, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return close("the dump tool has gone");
  std::span<const std::byte> bytes(buffer.data(), static_cast<std::size_t>(n));
  while (!bytes.empty() && state_ == LinkState::talking) {
    const std::size_t taken = commands_.feed(bytes);
    command_.append(as_text(bytes.first(taken)));
    bytes = bytes.subspan(taken);
    if (commands_.complete() || commands_.length() > command_limit) {
      if (!take_command()) return;
      command_.clear();
    }
  }
  if (!bytes.empty()) close("the dump tool did not wait for its snapshot");
}

/// Looks at a whole command, or at a part of one that is too long to be of interest. False when it closed the link.
bool Link::take_command() {
  if (!greeted_) {
    greeted_ = true;
    if ((client_capabilities(commands_.head()) & (client_ssl | client_compress)) != 0) {
      close("the dump tool insists on TLS or compression: the relay cannot read along");
      return false;
    }
  }
  const bool whole = commands_.complete() && command_.size() == commands_.length() + packet_header_bytes;
  if (whole && commands_.sequence() == 0 && opens_snapshot(commands_.head())) {
    snapshot_query_ = command_;
    state_ = LinkState::settling;
    statements_.assign(script_->settings.begin(), script_->settings.end());
    say_next();
  } else {
    up_.append(as_bytes(command_));
  }
  return true;
}

void Link::say(std::string packet) {
  answers_ = PacketScanner();
  up_.append(as_bytes(packet));
  if (!up_.send(server_.get())) close("the server closed the connection");
}

void Link::say_next() {
  if (statements_.empty()) {
    state_ = state_ == LinkState::settling ? LinkState::ready : LinkState::open;
    return;
  }
  say(query_packet(statements_.front()));
}

void Link::read_answer() {
  std::array<std::byte, 4096> buffer;
  const ssize_t n = ::recv(server_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0 || !answering()) return close("the server closed the dump's connection");
  std::span<const std::byte> bytes(buffer.data(), static_cast<std::size_t>(n));
  while (!bytes.empty() && answering()) {
    const std::size_t taken = answers_.feed(bytes);
    if (state_ == LinkState::opening) snapshot_answer_.append(as_text(bytes.first(taken)));
    bytes = bytes.subspan(taken);
    if (answers_.complete()) take_answer(parse_answer(answers_.head()));
    if (snapshot_answer_.size() > command_limit) return close("the server's answer to the snapshot is too long");
  }
  if (!bytes.empty()) close("the server said more than it was asked");
}

void Link::take_answer(const Answer& answer) {
  if (answer.kind == Answer::Kind::progress) {
    snapshot_answer_.clear();
    return;
  }
  const bool ok = answer.kind == Answer::Kind::ok;
  if (state_ == LinkState::opening) {
    // The server's word, and its word that a transaction is open, are the proof that the snapshot is.
    if (!ok || !answer.in_transaction)
      return close(
          fmt::format("the server did not open a snapshot{}{}", answer.message.empty() ? "" : ": ", answer.message));
    state_ = LinkState::pinning;
    statements_.assign(script_->pins.begin(), script_->pins.end());
    if (!script_->last.empty()) statements_.push_back(script_->last);
    return say_next();
  }
  const bool optional = state_ == LinkState::pinning && (statements_.size() > 1 || script_->last.empty());
  if (!ok && !(optional && answer.kind == Answer::Kind::error))
    return close(fmt::format("the server refused \"{}\": {}", statements_.front().substr(0, 100), answer.message));
  if (!ok) ++failed_pins_;
  statements_.pop_front();
  say_next();
}

}  // namespace stillpoint::mysql
