// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/store-wire.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "host/repository/little-endian.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <stdexcept>

namespace stillpoint::store_wire {

namespace {

constexpr std::size_t prefix_bytes = 8;
constexpr std::chrono::milliseconds stop_check{500};
constexpr std::chrono::minutes idle_limit{15};

void set_non_blocking(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
    throw_errno<Unreachable>("cannot use the connection's descriptors");
}

/// Waits until `fd` is ready.
void await(int fd, short events, const Deadline& limit) {
  for (;;) {
    pollfd poll_fd{fd, events, 0};
    const int ready = ::poll(&poll_fd, 1, limit.poll_timeout());
    if (ready > 0) return;
    if (ready < 0 && errno != EINTR) throw_errno<Unreachable>("cannot wait for the other side");
    if (limit.passed())
      throw Unreachable(fmt::format("the other side of the connection stands still for {} s", patience.count()),
                        "look at that machine and at the network, then try again");
  }
}

}  // namespace

Channel::Channel(int in, int out, std::stop_token stop) : in_(in), out_(out), stop_(std::move(stop)) {
  set_non_blocking(in_);
  set_non_blocking(out_);
}

void Channel::send(const Json& head, std::span<const std::byte> body) {
  const std::string text = dump_json(head);
  if (text.size() > max_head_bytes || body.size() > max_body_bytes) throw std::length_error("a message too long");
  std::array<std::byte, prefix_bytes> prefix{};
  put_le<std::uint32_t>(prefix.data(), static_cast<std::uint32_t>(text.size()));
  put_le<std::uint32_t>(prefix.data() + 4, static_cast<std::uint32_t>(body.size()));
  const std::scoped_lock lock(sending_);
  write(prefix);
  write(as_bytes(text));
  write(body);
}

void Channel::write(std::span<const std::byte> bytes) {
  Deadline limit(patience);
  while (!bytes.empty()) {
    const ssize_t n = ::write(out_, bytes.data(), bytes.size());
    if (n > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      limit = Deadline(patience);
    } else if (n < 0 && errno == EAGAIN) {
      await(out_, POLLOUT, limit);
    } else if (n < 0 && errno != EINTR) {
      throw_errno<Unreachable>("the connection is gone");
    }
  }
}

/// False when it was stopped before. A server does not wait for ever for a client whose machine may be gone: those that
/// work here renew a lease every two minutes.
bool Channel::await_message() {
  const Deadline idle(idle_limit);
  while (!stop_.stop_requested() && !(stop_.stop_possible() && idle.passed())) {
    pollfd poll_fd{in_, POLLIN, 0};
    const int ready = ::poll(&poll_fd, 1, stop_.stop_possible() ? static_cast<int>(stop_check.count()) : -1);
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) throw_errno<Unreachable>("cannot wait for the other side");
  }
  return false;
}

void Channel::read(std::span<std::byte> bytes) {
  Deadline limit(patience);
  while (!bytes.empty()) {
    const ssize_t n = ::read(in_, bytes.data(), bytes.size());
    if (n > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      limit = Deadline(patience);
    } else if (n == 0) {
      throw Unreachable("the connection ended in the middle of a message");
    } else if (errno == EAGAIN) {
      await(in_, POLLIN, limit);
    } else if (errno != EINTR) {
      throw_errno<Unreachable>("the connection is gone");
    }
  }
}

std::optional<Message> Channel::receive() {
  std::array<std::byte, prefix_bytes> prefix{};
  if (!await_message()) return std::nullopt;
  const ssize_t first = ::read(in_, prefix.data(), 1);
  if (first == 0) return std::nullopt;
  if (first < 0) throw_errno<Unreachable>("the connection is gone");
  read(std::span(prefix).subspan(1));
  const std::size_t head_bytes = get_le<std::uint32_t>(prefix.data());
  const std::size_t body_bytes = get_le<std::uint32_t>(prefix.data() + 4);
  if (head_bytes > max_head_bytes || body_bytes > max_body_bytes)
    throw ProtocolError("the other side does not speak the store's protocol");
  std::string text(head_bytes, '\0');
  read(std::as_writable_bytes(std::span(text.data(), text.size())));
  Message message{parse_json(text, "a message of the store's protocol"), std::vector<std::byte>(body_bytes)};
  if (!message.head.is_object()) throw ProtocolError("a message of the store's protocol is no object");
  read(message.body);
  return message;
}

}  // namespace stillpoint::store_wire
