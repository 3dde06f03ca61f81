// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/main-loop.hh"
#include "common/deleter.hh"
#include "common/file.hh"

#include <libudev.h>

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>

namespace stillpoint {

/// The guest's end of the channel: a virtio-serial port that may appear and disappear at any time, and to which a host
/// may connect and disconnect.
class Port {
 public:
  struct Events {
    std::function<void(std::span<const std::byte> bytes)> received;
    std::function<void()> has_room;      ///< the queue has shrunk below its limit
    std::function<void()> disconnected;  ///< the host has gone
  };

  /// The port of that name, whenever there is one.
  Port(std::string name, Events events);
  /// A stream socket in its place, for tests without a guest.
  Port(UniqueFd socket, Events events);
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;

  /// Queues a frame. What is queued for a host that has gone is dropped, and a host that reads nothing counts as gone.
  void send(std::string frame);
  /// Whether the queue is below its limit: data waits for that, control messages need not.
  [[nodiscard]] bool has_room() const noexcept { return queue_.size() - sent_ < queue_limit; }

 private:
  static constexpr std::size_t queue_limit = std::size_t{1} << 20;
  static constexpr std::size_t most_queued = std::size_t{16} << 20;

  void look_for_port();
  void open(const std::string& device);
  void await_host();
  void connected();
  void ready(GIOCondition condition);
  void write();
  void watch();
  void host_gone();
  void port_gone();

  std::string name_;
  Events events_;
  CPtr<udev, udev_unref> udev_;
  CPtr<udev_monitor, udev_monitor_unref> monitor_;
  Source monitor_source_;
  UniqueFd fd_;
  bool is_socket_ = false;
  bool connected_ = false;
  Source source_;
  Source retry_;
  std::string queue_;
  std::size_t sent_ = 0;  ///< bytes of queue_ that are on their way already
};

}  // namespace stillpoint
