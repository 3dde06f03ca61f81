// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "host/guest/domain.hh"

#include <cstdint>
#include <string>

namespace stillpoint {

/// Whether the guest says that it is frozen. Throws Unreachable when it does not answer, Locked.
[[nodiscard]] bool says_frozen(const Domain& domain);

/// One thaw call. Returns how many file systems it thawed. Throws Unreachable, Locked, QuiesceError; bounded.
[[nodiscard]] std::uint64_t thaw_once(const Domain& domain, const Deadline& deadline);

struct ThawOutcome {
  bool thawed = false;      ///< the guest says so, or it does not run any more
  bool stopped = false;     ///< it does not run any more
  std::uint64_t count = 0;  ///< file systems that our calls thawed
  std::string reason;       ///< why it is not thawed
};

/// Thaws and asks, again and again until the guest says that it is thawed or the deadline passes.
[[nodiscard]] ThawOutcome thaw_until_sure(const Domain& domain, const Deadline& deadline);

}  // namespace stillpoint
