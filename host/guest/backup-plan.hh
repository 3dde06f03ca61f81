// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/guest/backup-job.hh"
#include "host/guest/domain-xml.hh"

#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// What a plan is decided on.
struct PlanFacts {
  std::vector<DomainDisk> disks;
  std::string new_checkpoint;
  std::string base;                ///< checkpoint of the previous still point; empty when there is none
  std::vector<std::string> known;  ///< targets that the previous still point has a map of
  std::optional<std::vector<CheckpointDisk>> base_disks;  ///< nullopt when libvirt does not know `base`
};

/// The decision alone, without libvirt.
[[nodiscard]] BackupPlan decide(const PlanFacts& facts);

}  // namespace stillpoint
