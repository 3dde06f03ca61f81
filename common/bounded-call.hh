// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"

#include <exception>
#include <future>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace stillpoint {

/// Starts a thread that gets no signals and that nobody waits for.
void run_detached(std::packaged_task<void()> task);

/// Runs `call` in a thread of its own and waits for it until the deadline; nullopt when it is not over by then (the
/// thread is left to itself: `call` must own everything it touches). Rethrows what `call` throws. Calls of libvirt and
/// librbd cannot be cancelled, and some wait for a daemon that does not answer.
template <typename F>
[[nodiscard]] auto bounded_call(const Deadline& deadline, F call) -> std::optional<std::invoke_result_t<F&>> {
  auto promise = std::make_shared<std::promise<std::invoke_result_t<F&>>>();
  std::future<std::invoke_result_t<F&>> result = promise->get_future();
  // Whoever has the answer may end the program: by then what the call owns is released.
  run_detached(std::packaged_task<void()>([promise, call = std::optional<F>(std::move(call))]() mutable {
    try {
      auto answer = (*call)();
      call.reset();
      promise->set_value(std::move(answer));
    } catch (...) {
      const std::exception_ptr failure = std::current_exception();
      call.reset();
      promise->set_exception(failure);
    }
  }));
  if (result.wait_until(deadline.at()) != std::future_status::ready) return std::nullopt;
  return result.get();
}

}  // namespace stillpoint
