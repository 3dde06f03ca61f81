// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/event-loop.hh"

#include "common/signal-mask.hh"
#include "host/guest/virt-error.hh"

#include <libvirt/libvirt.h>

#include <atomic>
#include <thread>

namespace stillpoint {

namespace {

void wake(int /*timer*/, void* /*opaque*/) {}

class EventLoop {
 public:
  EventLoop() {
    silence_virt_errors();
    if (virInitialize() < 0 || virEventRegisterDefaultImpl() < 0)
      throw_virt<Error>("cannot start libvirt's event loop");
    timer_ = virEventAddTimeout(-1, wake, nullptr, nullptr);
    if (timer_ < 0) throw_virt<Error>("cannot start libvirt's event loop");
    const AllSignalsBlocked blocked;
    thread_ = std::thread([this] {
      while (!stopped_)
        if (virEventRunDefaultImpl() < 0) std::this_thread::yield();
    });
  }
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;
  ~EventLoop() {
    stopped_ = true;
    virEventUpdateTimeout(timer_, 0);
    thread_.join();
  }

 private:
  std::atomic<bool> stopped_{false};
  int timer_ = -1;
  std::thread thread_;
};

}  // namespace

void start_event_loop() {
  static EventLoop loop;
}

}  // namespace stillpoint
