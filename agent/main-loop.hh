// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <glib.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace stillpoint {

/// A source of the default main context (a timer, a watched descriptor); going out of scope removes it. The callback
/// runs in the main loop's thread; an exception out of it ends the program, for it is a bug.
class Source {
 public:
  Source() = default;
  Source(Source&& other) noexcept;
  Source& operator=(Source&& other) noexcept;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  ~Source() { reset(); }

  /// Calls `expired` once, after `delay`.
  [[nodiscard]] static Source after(std::chrono::milliseconds delay, std::function<void()> expired);
  /// Calls `tick` again and again.
  [[nodiscard]] static Source every(std::chrono::milliseconds period, std::function<void()> tick);
  /// Calls `ready` whenever poll(2) reports one of `events` (or G_IO_HUP, G_IO_ERR) for the descriptor.
  [[nodiscard]] static Source watch(int fd, GIOCondition events, std::function<void(GIOCondition)> ready);

  void reset() noexcept;
  explicit operator bool() const noexcept { return source_ != nullptr; }

 private:
  explicit Source(GSource* source) noexcept : source_(source) {}
  GSource* source_ = nullptr;
};

/// Runs `call` in the main loop's thread, soon. From any thread.
void post(std::function<void()> call);

/// Runs calls that block, each in a thread of its own, and then `done` in the main loop's thread with a failure for
/// each call: empty when it succeeded, else the exception's words. From the main loop's thread.
void run_blocking(std::vector<std::function<void()>> calls,
                  std::function<void(const std::vector<std::string>& failures)> done);

}  // namespace stillpoint
