// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/disk-choice.hh"

#include "common/errors.hh"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace stillpoint {

const DiskRecord& choose_disk(const Manifest& manifest, std::string_view target) {
  const auto it = std::ranges::find(manifest.disks, target, &DiskRecord::target);
  if (it != manifest.disks.end()) return *it;
  if (target.empty() && manifest.disks.size() == 1) return manifest.disks.front();
  std::string there;
  for (const DiskRecord& disk : manifest.disks)
    there += (there.empty() ? "" : ", ") + disk.target;
  if (target.empty())
    throw UsageError(fmt::format("{} has several disks", manifest.name), "name one with --disk: " + there);
  throw NotFound(fmt::format("{} has no disk '{}'", manifest.name, target), "its disks are " + there);
}

}  // namespace stillpoint
