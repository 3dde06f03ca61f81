// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/shared-window.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "common/test-pause.hh"
#include "host/commands/format.hh"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace stillpoint {

SharedWindow::SharedWindow(Domain domain, const Terms& terms, Tell tell)
    : domain_(std::move(domain)), terms_(terms), tell_(std::move(tell)) {
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

SharedWindow::~SharedWindow() {
  close();
  thread_.request_stop();
  thread_.join();
}

void SharedWindow::quiesce(const std::string& image, Answer answer) {
  const std::lock_guard lock(mutex_);
  waiting_.push_back({image, std::move(answer)});
  ++changes_;
  changed_.notify_all();
}

void SharedWindow::unquiesce(const std::string& image) {
  const std::lock_guard lock(mutex_);
  holders_.erase(image);
  ++changes_;
  changed_.notify_all();
}

void SharedWindow::close() {
  const std::lock_guard lock(mutex_);
  closed_.request_stop();
  ++changes_;
  changed_.notify_all();
}

void SharedWindow::run(const std::stop_token& stop) {
  Lock lock(mutex_);
  while (!stop.stop_requested() || window_ || !waiting_.empty()) {
    const auto now = SteadyClock::now();
    if (window_ && (closed_.stop_requested() || holders_.empty() || now >= thaw_at_)) {
      end(lock);
    } else if (!waiting_.empty() && closed_.stop_requested()) {
      log_warning("{}: a snapshot is refused, for the watch ends", domain_.name());
      answer_all(lock, EBUSY);
    } else if (!waiting_.empty() && !window_) {
      begin(lock);
    } else if (!waiting_.empty() && now < join_until_) {
      join(lock);
    } else {
      // Who asks in a window's second half waits for the next one: in this one he might get too little time.
      const std::uint64_t seen = changes_;
      const auto is_new = [&] { return changes_ != seen; };
      if (window_)
        changed_.wait_until(lock, stop, thaw_at_, is_new);
      else
        changed_.wait(lock, stop, is_new);
    }
  }
}

void SharedWindow::begin(Lock& lock) {
  lock.unlock();
  bool runs = true;
  std::unique_ptr<SnapshotWindow> window;
  try {
    runs = domain_.running();
    if (runs) window = std::make_unique<SnapshotWindow>(domain_, terms_.least, terms_.most, closed_.get_token());
    if (window) pause_for_test("hold");
  } catch (const std::exception& e) {
    const auto* error = dynamic_cast<const Error*>(&e);
    const std::string hint = error == nullptr || error->hint().empty() ? "" : fmt::format(" ({})", error->hint());
    if (terms_.best_effort)
      log_warning("{} is not frozen, its snapshot is of grade crash: {}{}", domain_.name(), e.what(), hint);
    else
      log_error("a snapshot of {} is refused: {}{}", domain_.name(), e.what(), hint);
  }
  lock.lock();
  if (!window) {
    // Of a guest that does not run nothing is in flight.
    if (!runs) log_info("{} does not run: a snapshot needs no freeze", domain_.name());
    return answer_all(lock, !runs || terms_.best_effort ? 0 : EBUSY);
  }
  window_ = std::move(window);
  thaw_at_ = window_->begun() + terms_.most;
  join_until_ = SteadyClock::now() + (thaw_at_ - SteadyClock::now()) / 2;
  if (!closed_.stop_requested()) join(lock);
}

void SharedWindow::join(Lock& lock) {
  for (const Request& request : waiting_) {
    log_info("{} stands still for a snapshot of {}", domain_.name(), request.image);
    holders_.insert(request.image);
    images_.insert(request.image);
  }
  answer_all(lock, 0);
}

void SharedWindow::answer_all(Lock& lock, int error) {
  const std::vector<Request> answered = std::exchange(waiting_, {});
  lock.unlock();
  for (const Request& request : answered)
    request.answer(error);
  lock.lock();
}

void SharedWindow::end(Lock& lock) {
  const auto window = std::move(window_);
  const std::set<std::string> late = std::exchange(holders_, {});
  std::set<std::string> images = std::exchange(images_, {});
  const bool closed = closed_.stop_requested();
  lock.unlock();
  for (const std::string& image : late)
    images.erase(image);
  try {
    WindowWorth worth = window->end();
    tell_of({images.begin(), images.end()}, worth);
    worth.judgement = {Grade::crash,
                       {fmt::format("the guest was thawed before the snapshot was complete: {}",
                                    closed ? std::string("the watch ends")
                                           : fmt::format("it took longer than {}", format_duration(terms_.most)))}};
    tell_of({late.begin(), late.end()}, worth);
  } catch (const std::exception& e) {
    log_error("{}: {}", domain_.name(), e.what());
  }
  lock.lock();
}

void SharedWindow::tell_of(std::vector<std::string> images, const WindowWorth& worth) const noexcept {
  if (images.empty()) return;
  try {
    if (!worth.judgement.reasons.empty())
      log_warning("{}: a snapshot of {} is of grade {}: {}", domain_.name(), fmt::join(images, ", "),
                  to_string(worth.judgement.grade), fmt::join(worth.judgement.reasons, "; "));
    tell_(images, worth);
  } catch (const std::exception& e) {
    log_warning("what was frozen cannot be told: {}", e.what());
  }
}

}  // namespace stillpoint
