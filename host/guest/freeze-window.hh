// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "host/guest/domain.hh"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace stillpoint {

class AgentResponseTimeout;
class ThawGuard;

/// Holds a guest frozen for its scope. Leaving the scope, by whatever way, thaws; a child of this process thaws when
/// the process dies in between. The program's main() must know thaw_guard_verb (thaw-guard.hh).
class FrozenGuest {
 public:
  /// Freezes within protocol::host_deadline. Throws QuiesceError with the guest thawed (after a time-out the state is
  /// unknown: it thaws, asks, then judges), Unreachable when libvirt is gone. Where even the thaw fails, the child is
  /// left to keep trying, and the error says so. A freeze that took longer than `most` is a failed one.
  explicit FrozenGuest(const Domain& domain, std::optional<std::chrono::milliseconds> most = std::nullopt);
  FrozenGuest(const FrozenGuest&) = delete;
  FrozenGuest& operator=(const FrozenGuest&) = delete;
  ~FrozenGuest();

  /// Asks qemu-ga. Empty when the guest says that it is frozen; bounded.
  [[nodiscard]] std::string why_not_frozen() const;

  /// Throws QuiesceError when the guest cannot be thawed, CaptureError when it stopped. Afterwards compare thawed()
  /// with frozen(): fewer mean that something else thawed in between, and what was captured is of grade crash.
  void thaw();

  /// File systems that the guest says it froze, at least one.
  [[nodiscard]] std::uint64_t frozen() const noexcept { return frozen_; }
  /// File systems that our thaw found frozen. Known after thaw(); 0 as well when thaw() had to try again and an earlier
  /// try's answer is lost, or when the guard acted first.
  [[nodiscard]] std::uint64_t thawed() const noexcept { return thawed_; }
  [[nodiscard]] std::chrono::microseconds freeze_took() const noexcept { return freeze_took_; }
  [[nodiscard]] std::chrono::microseconds thaw_took() const noexcept { return thaw_took_; }
  /// From the freeze call to the thaw's return; known after thaw().
  [[nodiscard]] std::chrono::microseconds window() const noexcept { return window_; }

 private:
  void freeze();
  [[noreturn]] void refuse_frozen() const;
  [[noreturn]] void give_up_freezing(const std::string& reason, bool libvirt_lost);

  Domain domain_;
  std::unique_ptr<AgentResponseTimeout> limit_;
  std::unique_ptr<ThawGuard> guard_;
  SteadyClock::time_point begun_;
  std::uint64_t frozen_ = 0;
  std::uint64_t thawed_ = 0;
  std::chrono::microseconds freeze_took_{0};
  std::chrono::microseconds thaw_took_{0};
  std::chrono::microseconds window_{0};
  bool held_ = false;
};

}  // namespace stillpoint
