// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/tree-filter.hh"
#include "host/commands/capture-levels.hh"
#include "host/commands/tree-layout.hh"

#include <filesystem>
#include <string>
#include <vector>

namespace stillpoint {

/// What trees of a still point there are to be.
struct TreeChoice {
  const TreeFilter& filter;
  bool in_appliance = false;  ///< one is started for what only that reads
  bool by_kernel = false;     ///< this machine's kernel mounts what it can of that: the guest is trusted
};

/// A tree of every file system that can be read, several at once where there are cores for them. One that fails has a
/// record with the reason; one of a kind that is not read, or that the filter leaves out whole, gets a warning.
/// Patterns are anchored at the guest's root, where it is known where a file system was mounted. Starts a thread in
/// `tasks`, which the arguments outlive.
void capture_trees(TaskGroup& tasks, const std::vector<DiskSource>& disks, const std::vector<GuestFileSystem>& mounted,
                   const TreeChoice& choice, const Manifest* parent, const std::filesystem::path& repository,
                   TreeDirectory& trees, Progress& progress, std::vector<TreeRecord>& records,
                   std::vector<std::string>& warnings);

}  // namespace stillpoint
