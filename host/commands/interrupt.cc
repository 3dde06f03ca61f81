// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/interrupt.hh"

#include "common/errors.hh"
#include "common/log.hh"

#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>

namespace stillpoint {

namespace {

/// Whoever started us wants it so: nohup, or a shell's background job.
bool ignored(int number) {
  struct sigaction action {};
  return ::sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

}  // namespace

Interrupt::Interrupt() {
  ::signal(SIGPIPE, SIG_IGN);
  ::sigemptyset(&signals_);
  for (const int number : {SIGINT, SIGTERM, SIGHUP})
    if (!ignored(number)) ::sigaddset(&signals_, number);
  ::pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  came_.reset(::signalfd(-1, &signals_, SFD_CLOEXEC));
  ended_.reset(::eventfd(0, EFD_CLOEXEC));
  if (!came_ || !ended_) throw_errno("cannot watch for signals");
  thread_ = std::jthread([this] { wait_for_signals(); });
}

Interrupt::~Interrupt() {
  ::eventfd_write(ended_.get(), 1);
}

std::string Interrupt::signal_name() const {
  const int number = signal_.load();
  return number == 0 ? std::string() : std::string("SIG") + ::sigabbrev_np(number);
}

void Interrupt::wait_for_signals() {
  for (;;) {
    std::array<pollfd, 2> events{{{came_.get(), POLLIN, 0}, {ended_.get(), POLLIN, 0}}};
    if (::poll(events.data(), events.size(), -1) < 0) continue;  // EINTR
    if (events[1].revents != 0) return;
    signalfd_siginfo info{};
    if (::read(came_.get(), &info, sizeof info) != sizeof info) continue;
    const int number = static_cast<int>(info.ssi_signo);
    int none = 0;
    if (signal_.compare_exchange_strong(none, number))
      log_warning("SIG{}: undoing what was begun", ::sigabbrev_np(number));
    else
      log_warning("SIG{}: still undoing", ::sigabbrev_np(number));
    stop_.request_stop();
  }
}

}  // namespace stillpoint
