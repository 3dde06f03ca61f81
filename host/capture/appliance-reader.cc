// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/appliance-reader.hh"

#include "common/errors.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/tree-worker.hh"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>
#include <utility>

namespace stillpoint {
namespace {

constexpr std::string_view program_name = "stillpoint-appliance-worker";
/// Starting takes half a minute where there is no KVM, and three where an appliance must be built first.
constexpr std::chrono::minutes appliance_limit{10};

/// What libguestfs and supermin let an operator choose, and nothing else of ours.
std::vector<std::string> appliance_environment() {
  std::vector<std::string> environment = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                          "LANG=C"};
  static constexpr std::array<std::string_view, 9> passed_on = {
      "SUPERMIN_KERNEL=",    "SUPERMIN_KERNEL_VERSION=", "SUPERMIN_MODULES=", "LIBGUESTFS_PATH=", "LIBGUESTFS_HV=",
      "LIBGUESTFS_MEMSIZE=", "LIBGUESTFS_CACHEDIR=",     "LIBGUESTFS_DEBUG=", "LIBGUESTFS_TRACE="};
  for (char** variable = environ; *variable != nullptr; ++variable)
    if (std::any_of(passed_on.begin(), passed_on.end(),
                    [variable](std::string_view name) { return std::string_view(*variable).starts_with(name); }))
      environment.emplace_back(*variable);
  return environment;
}

std::vector<DiskPart> whole_disks(const std::vector<NamedDisk>& disks) {
  std::vector<DiskPart> parts;
  for (const NamedDisk& disk : disks)
    if (disk.disk->size() > 0) parts.push_back({disk.disk, 0, disk.disk->size()});
  return parts;
}

}  // namespace

ApplianceReader::ApplianceReader(std::vector<NamedDisk> disks, ApplianceOptions options)
    : AskedReader(*disks.front().disk), disks_(std::move(disks)), options_(std::move(options)) {}

std::vector<FileSystem> ApplianceReader::file_systems() {
  std::vector<DiskPart> parts = whole_disks(disks_);
  if (parts.size() > wire::max_disks) throw CaptureError("more disks than an appliance can have");
  wire::Writer question(wire::Type::list);
  question.u32(static_cast<std::uint32_t>(parts.size()));
  for (const NamedDisk& disk : disks_) {
    if (disk.disk->size() == 0) continue;
    question.string(disk.name);
    question.u64(disk.disk->size());
  }
  question.u32(static_cast<std::uint32_t>(options_.keys.size()));
  for (const std::string& key : options_.keys)
    question.string(key);
  return start({.name = program_name,
                .words = "the appliance's worker",
                .environment = appliance_environment(),
                .answer_limit = appliance_limit,
                .asks_for_blocks_apart = true,
                .has_errors = std::getenv("LIBGUESTFS_DEBUG") != nullptr,
                .stop = options_.stop},
               std::move(parts), question);
}

}  // namespace stillpoint
