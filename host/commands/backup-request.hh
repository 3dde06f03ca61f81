// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/tree-filter.hh"
#include "host/repository/manifest.hh"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// An image to be captured without a guest: --disk-image vda=PATH,format=raw.
struct DiskImage {
  std::string target;
  std::filesystem::path path;
  std::string format = "raw";
};

/// Throws UsageError.
[[nodiscard]] DiskImage parse_disk_image(const std::string& text);

/// What the operator asks for.
struct BackupRequest {
  std::string domain;
  std::string uri;                   ///< libvirt's; empty for its default
  std::optional<Grade> require;      ///< empty: what the guest offers when it is prepared
  std::vector<std::string> disks;    ///< only these targets; empty for all
  std::vector<std::string> exclude;  ///< not these targets
  std::vector<DiskImage> images;     ///< instead of a domain's disks
  std::filesystem::path scratch;     ///< for what the guest overwrites while its disks are read
  std::optional<std::chrono::milliseconds>
      max_freeze;           ///< for the freeze call: give up, thawed, rather than take longer
  unsigned parallel = 4;    ///< disks read at once
  std::uint64_t limit = 0;  ///< bytes a second that disks are read with, all together; 0: no limit
  bool full = false;        ///< read every disk in full
  bool trees = true;
  TreeFilter tree_filter;        ///< what trees leave out
  bool appliance_trees = false;  ///< trees also of what only an appliance reads
  bool kernel_trees = false;     ///< or this machine's kernel mounts, for the guest is trusted
  bool dumps = true;
};

}  // namespace stillpoint
