// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "host/guest/domain.hh"

#include <chrono>
#include <cstdint>
#include <memory>

namespace stillpoint {

/// Holds a guest frozen for its scope. Leaving the scope, by whatever way, thaws; a child of this process thaws when
/// the process dies in between.
class FrozenGuest {
 public:
  /// Freezes within protocol::host_deadline. Throws QuiesceError with the guest thawed (after a time-out the state is
  /// unknown: it thaws, asks, then judges), Unreachable when libvirt is gone.
  explicit FrozenGuest(const Domain& domain);
  FrozenGuest(const FrozenGuest&) = delete;
  FrozenGuest& operator=(const FrozenGuest&) = delete;
  ~FrozenGuest();

  /// Throws QuiesceError when the guest cannot be thawed or had been thawed by somebody else.
  void thaw();

  [[nodiscard]] std::uint64_t frozen() const noexcept { return frozen_; }
  /// Known after thaw().
  [[nodiscard]] std::uint64_t thawed() const noexcept { return thawed_; }
  [[nodiscard]] std::chrono::microseconds freeze_took() const noexcept { return freeze_took_; }
  [[nodiscard]] std::chrono::microseconds thaw_took() const noexcept { return thaw_took_; }
  /// From the freeze call to the thaw's return; known after thaw().
  [[nodiscard]] std::chrono::microseconds window() const noexcept { return window_; }

 private:
  class ThawGuard;
  Domain domain_;
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
