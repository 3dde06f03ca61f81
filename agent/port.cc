// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/port.hh"

#include "common/errors.hh"
#include "common/log.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>

namespace stillpoint {

namespace {

/// The kernel does not tell when a host connects to a port (virtio_console: poll reports HUP until one has).
constexpr std::chrono::milliseconds host_poll_period{100};
/// Another program may hold the port for a moment (one opener a port).
constexpr std::chrono::seconds open_retry_period{1};

bool reports_hang_up(int fd) {
  pollfd poll{fd, POLLIN, 0};
  return ::poll(&poll, 1, 0) > 0 && (poll.revents & POLLHUP) != 0;
}

}  // namespace

Port::Port(std::string name, Events events) : name_(std::move(name)), events_(std::move(events)), udev_(udev_new()) {
  // "kernel" rather than "udev": works in guests where no udevd runs.
  if (udev_) monitor_.reset(udev_monitor_new_from_netlink(udev_.get(), "kernel"));
  if (!monitor_ || udev_monitor_filter_add_match_subsystem_devtype(monitor_.get(), "virtio-ports", nullptr) < 0 ||
      udev_monitor_enable_receiving(monitor_.get()) < 0)
    throw Error("cannot listen to the kernel's device events");
  monitor_source_ = Source::watch(udev_monitor_get_fd(monitor_.get()), G_IO_IN, [this](GIOCondition) {
    while (const CPtr<udev_device, udev_device_unref> device{udev_monitor_receive_device(monitor_.get())}) {
    }
    look_for_port();
  });
  look_for_port();
}

Port::Port(UniqueFd socket, Events events) : events_(std::move(events)), fd_(std::move(socket)), is_socket_(true) {
  if (::fcntl(fd_.get(), F_SETFL, O_NONBLOCK) != 0) throw_errno("fcntl");
  connected();
}

void Port::look_for_port() {
  namespace fs = std::filesystem;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator("/sys/class/virtio-ports", error)) {
    std::string name;
    std::getline(std::ifstream(entry.path() / "name"), name);
    if (name != name_) continue;
    if (!fd_) open("/dev/" + entry.path().filename().native());
    return;
  }
  if (fd_) port_gone();
}

void Port::open(const std::string& device) {
  fd_.reset(::open(device.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (fd_) {
    log_info("found the channel's port, {}", device);
    return await_host();
  }
  log_debug("{}", errno_message("cannot open " + device, errno));
  retry_ = Source::after(open_retry_period, [this] { look_for_port(); });
}

void Port::await_host() {
  if (!reports_hang_up(fd_.get())) return connected();
  // A port that was unplugged hangs up for ever, and a new one may have its name already: only reading tells them
  // apart.
  std::array<std::byte, 4096> buffer;
  const ssize_t n = ::read(fd_.get(), buffer.data(), buffer.size());
  if (n < 0 && errno == ENODEV) return port_gone();
  if (n > 0) {
    // The host has come meanwhile, or left this behind.
    connected();
    return events_.received({buffer.data(), static_cast<std::size_t>(n)});
  }
  retry_ = Source::after(host_poll_period, [this] { await_host(); });
}

void Port::connected() {
  connected_ = true;
  watch();
}

void Port::watch() {
  const bool writes = sent_ < queue_.size();
  source_ = Source::watch(fd_.get(), writes ? static_cast<GIOCondition>(G_IO_IN | G_IO_OUT) : G_IO_IN,
                          [this](GIOCondition condition) { ready(condition); });
}

void Port::ready(GIOCondition condition) {
  if ((condition & G_IO_IN) != 0) {
    std::array<std::byte, 65536> buffer;
    const ssize_t n = ::read(fd_.get(), buffer.data(), buffer.size());
    if (n > 0) {
      events_.received({buffer.data(), static_cast<std::size_t>(n)});
    } else if (n == 0) {
      return host_gone();
    } else if (errno == ENODEV) {
      return port_gone();
    } else if (errno != EAGAIN && errno != EINTR) {
      return host_gone();
    }
  } else if ((condition & (G_IO_HUP | G_IO_ERR | G_IO_NVAL)) != 0) {
    return host_gone();
  }
  // The callbacks may have closed the port.
  if (connected_ && (condition & G_IO_OUT) != 0) write();
}

void Port::send(std::string frame) {
  if (!connected_) return;
  if (queue_.size() - sent_ > most_queued) return host_gone();
  const bool idle = sent_ == queue_.size();
  if (idle) {
    queue_ = std::move(frame);
    sent_ = 0;
    return watch();
  }
  if (sent_ > queue_limit) {
    queue_.erase(0, sent_);
    sent_ = 0;
  }
  queue_ += frame;
}

void Port::write() {
  const ssize_t n = ::write(fd_.get(), queue_.data() + sent_, queue_.size() - sent_);
  if (n < 0 && errno != EAGAIN && errno != EINTR) return host_gone();
  if (n > 0) sent_ += static_cast<std::size_t>(n);
  if (sent_ == queue_.size()) {
    queue_.clear();
    sent_ = 0;
    watch();
  }
  if (has_room()) events_.has_room();
}

void Port::host_gone() {
  source_.reset();
  connected_ = false;
  queue_.clear();
  sent_ = 0;
  events_.disconnected();
  if (is_socket_) return fd_.reset();
  retry_ = Source::after(host_poll_period, [this] { await_host(); });
}

void Port::port_gone() {
  const bool was_connected = connected_;
  source_.reset();
  retry_.reset();
  fd_.reset();
  connected_ = false;
  queue_.clear();
  sent_ = 0;
  log_info("the channel's port is gone");
  if (was_connected) events_.disconnected();
  // A new one of the same name may be there already.
  retry_ = Source::after(host_poll_period, [this] { look_for_port(); });
}

}  // namespace stillpoint
