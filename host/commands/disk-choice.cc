// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/disk-choice.hh"

#include "common/errors.hh"

#include <fmt/format.h>

#include <string>

namespace stillpoint {

const DiskRecord& choose_disk(const Manifest& manifest, std::string_view target) {
  if (const DiskRecord* const found = disk_record(manifest, target)) return *found;
  if (target.empty() && manifest.disks.size() == 1) return manifest.disks.front();
  std::string there;
  for (const DiskRecord& disk : manifest.disks)
    there += (there.empty() ? "" : ", ") + disk.target;
  if (target.empty())
    throw UsageError(fmt::format("{} has several disks", manifest.name), "name one with --disk: " + there);
  throw NotFound(fmt::format("{} has no disk '{}'", manifest.name, target), "its disks are " + there);
}

}  // namespace stillpoint
