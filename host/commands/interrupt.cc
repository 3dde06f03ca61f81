// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/interrupt.hh"

#include "common/log.hh"

#include <string.h>

#include <ctime>

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
  thread_ = std::jthread([this](const std::stop_token& end) { wait_for_signals(end); });
}

Interrupt::~Interrupt() {
  thread_.request_stop();
}

std::string Interrupt::signal_name() const {
  const int number = signal_.load();
  return number == 0 ? std::string() : std::string("SIG") + ::sigabbrev_np(number);
}

void Interrupt::wait_for_signals(const std::stop_token& end) {
  while (!end.stop_requested()) {
    const timespec limit{0, 200'000'000};
    const int number = ::sigtimedwait(&signals_, nullptr, &limit);
    if (number <= 0) continue;
    int none = 0;
    if (signal_.compare_exchange_strong(none, number))
      log_warning("SIG{}: undoing what was begun", ::sigabbrev_np(number));
    else
      log_warning("SIG{}: still undoing", ::sigabbrev_np(number));
    stop_.request_stop();
  }
}

}  // namespace stillpoint
