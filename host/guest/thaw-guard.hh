// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/file.hh"
#include "host/guest/domain.hh"

#include <sys/types.h>

#include <chrono>
#include <string_view>

namespace stillpoint {

/// The hidden verb under which a program that freezes guests must run thaw_guard_main().
inline constexpr std::string_view thaw_guard_verb = "thaw-guard";

/// The guard itself: `PROGRAM thaw-guard URI UUID SECONDS`, with one end of a socket pair as its standard input. Call
/// it first in main(), with main's own arguments, when argv[1] is thaw_guard_verb. Returns the exit code.
[[nodiscard]] int thaw_guard_main(int argc, char** argv);

/// A process of its own that thaws the guest when this one dies, or when the freeze lasts too long. It is a new
/// execution of this program, in a session of its own, and no signal but SIGKILL ends it before its work is done.
class ThawGuard {
 public:
  /// Starts it and waits until it has reached the domain. It acts after `limit` even while this process lives.
  /// Throws QuiesceError.
  ThawGuard(const Domain& domain, std::chrono::seconds limit);
  ThawGuard(const ThawGuard&) = delete;
  ThawGuard& operator=(const ThawGuard&) = delete;
  /// Unless disarmed, leaves the thaw to the guard, which begins at once.
  ~ThawGuard();

  /// The guest is thawed: the guard has nothing to do any more. False when it had acted already.
  bool disarm() noexcept;

 private:
  void wait_until_armed();

  UniqueFd socket_;
  pid_t pid_ = -1;
};

/// Waits for guards of that domain whose own companion has ended: they would thaw the next window, or keep qemu-ga busy
/// in it. A guard ends by itself as soon as the guest answers that it is thawed. False when one is left at the
/// deadline.
[[nodiscard]] bool wait_for_earlier_guards(const Domain& domain, const Deadline& deadline);

}  // namespace stillpoint
