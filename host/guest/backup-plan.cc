// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/backup-plan.hh"

#include "host/guest/checkpoint.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

namespace {

/// Why this disk is read in full; empty when the base's bitmap tells what changed.
std::string reason_for_full(const DomainDisk& disk, const PlanFacts& facts) {
  if (!disk.dirty_bitmap) return fmt::format("{} disks have no dirty bitmap", disk.format);
  if (facts.base.empty()) return "no earlier still point in this repository has a checkpoint";
  if (std::find(facts.known.begin(), facts.known.end(), disk.target) == facts.known.end())
    return "the previous still point does not hold this disk";
  if (!facts.base_disks) return fmt::format("libvirt no longer knows checkpoint {}", facts.base);
  const auto covered = std::find_if(facts.base_disks->begin(), facts.base_disks->end(),
                                    [&](const CheckpointDisk& it) { return it.target == disk.target; });
  if (covered == facts.base_disks->end()) return fmt::format("checkpoint {} does not cover it", facts.base);
  if (!covered->usable) return fmt::format("the bitmap of checkpoint {} is missing or broken", facts.base);
  return {};
}

}  // namespace

BackupPlan decide(const PlanFacts& facts) {
  BackupPlan plan;
  for (const DomainDisk& disk : facts.disks) {
    BackupDisk part{disk.target, {}, reason_for_full(disk, facts), disk.dirty_bitmap};
    if (part.full_reason.empty()) part.base = facts.base;
    if (part.checkpoint) plan.checkpoint = facts.new_checkpoint;
    plan.disks.push_back(std::move(part));
  }
  return plan;
}

BackupPlan plan_backup(const Domain& domain, const std::string& new_checkpoint, const std::string& base,
                       const std::vector<std::string>& known) {
  if (domain.running()) require_no_job(domain);
  PlanFacts facts{domain.disks(), new_checkpoint, base, known, std::nullopt};
  std::erase_if(facts.disks, [](const DomainDisk& disk) { return disk.rbd.has_value(); });
  if (!base.empty()) facts.base_disks = checkpoint_disks(domain, base);
  return decide(facts);
}

}  // namespace stillpoint
