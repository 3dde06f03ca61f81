// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/program.hh"

#include <chrono>
#include <string>

namespace stillpoint {

/// How one run of a site hook went (hooks/README.md is their contract).
struct SiteHookRun {
  std::string name;
  std::chrono::milliseconds took{0};
  std::string failure;  ///< empty when it succeeded
};

/// Runs one with the argument ("freeze" or "thaw") and ends its whole process group at the deadline. Never throws for
/// the hook's sake.
[[nodiscard]] SiteHookRun run_site_hook(const FoundProgram& hook, const std::string& argument,
                                        const Deadline& deadline);

}  // namespace stillpoint
