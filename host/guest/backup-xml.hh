// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/guest/backup-job.hh"

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// Name of the dirty bitmap's NBD export of disk `target`, without "qemu:dirty-bitmap:".
[[nodiscard]] std::string export_bitmap(std::string_view target);

/// Where copy-before-write of disk `target` goes: a qcow2 image, which must exist when the job begins.
[[nodiscard]] std::filesystem::path scratch_file(const std::filesystem::path& directory, const std::string& target);

/// libvirt's description of the pull-mode job: NBD on `directory`/nbd.sock, copy-before-write in `directory`. Disks of
/// `all_targets` that are not in the plan are left out of the job by name.
[[nodiscard]] std::string backup_xml(const BackupPlan& plan, const std::filesystem::path& directory,
                                     const std::vector<std::string>& all_targets);

/// libvirt's description of the plan's checkpoint, over exactly the disks that have `checkpoint` set.
[[nodiscard]] std::string checkpoint_xml(const BackupPlan& plan, const std::vector<std::string>& all_targets);

/// The disk that libvirt's complaint about a missing or broken bitmap names; empty when it names none of the plan's.
[[nodiscard]] std::string blamed_disk(std::string_view message, const BackupPlan& plan);

}  // namespace stillpoint
