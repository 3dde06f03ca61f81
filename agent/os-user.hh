// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/program.hh"

#include <optional>
#include <string>

namespace stillpoint {

/// Empty when there is no such account.
[[nodiscard]] std::optional<OsUser> find_os_user(const std::string& name);

/// While it lives, this thread (no other) has the effective uid of that account: peer authentication takes the
/// effective uid of the thread that calls connect(2). Does nothing when the agent does not run as root.
class EffectiveUser {
 public:
  /// Throws Error when the kernel refuses.
  explicit EffectiveUser(const std::optional<OsUser>& user);
  EffectiveUser(const EffectiveUser&) = delete;
  EffectiveUser& operator=(const EffectiveUser&) = delete;
  /// Ends the program when the own uid cannot be had back: nothing would work as it should.
  ~EffectiveUser();

 private:
  bool changed_ = false;
};

}  // namespace stillpoint
