// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

namespace stillpoint {

/// A script of the site in one of the fsfreeze-hook.d directories (hooks/README.md is their contract).
struct SiteHook {
  std::filesystem::path path;
  std::string fault;  ///< why it must not be run; empty when it may
};

/// How one run of a site hook went.
struct SiteHookRun {
  std::string name;
  std::chrono::milliseconds took{0};
  std::string failure;  ///< empty when it succeeded
};

/// The executable regular files of the directories, by their file names across all directories; editors' and package
/// managers' leftovers are not meant. One that others than root could have written has a fault.
[[nodiscard]] std::vector<SiteHook> find_site_hooks(const std::vector<std::filesystem::path>& directories);

/// Runs one with the argument ("freeze" or "thaw") and ends its whole process group at the deadline. Never throws for
/// the hook's sake.
[[nodiscard]] SiteHookRun run_site_hook(const SiteHook& hook, const std::string& argument, const Deadline& deadline);

}  // namespace stillpoint
