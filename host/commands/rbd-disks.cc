// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/rbd-disks.hh"

#include <utility>

namespace stillpoint {
namespace {

/// Fills in what the disk's changes are told by, or why they are not.
void choose_base(RbdSource& source, const DomainDisk& disk, const Manifest* parent,
                 const std::function<bool(const DiskMap&)>& is_whole) {
  const DiskRecord* const earlier = parent == nullptr ? nullptr : disk_record(*parent, disk.target);
  if (earlier == nullptr) {
    source.full_reason = parent == nullptr ? "no earlier still point in this repository"
                                           : "the previous still point does not hold this disk";
  } else if (!earlier->rbd) {
    source.full_reason = "the previous still point left no RBD snapshot of it";
  } else if (!is_whole(earlier->map)) {
    source.full_reason = earlier_is_damaged;
  } else {
    source.base = earlier->rbd;
    source.base_size = earlier->map.size;
  }
}

}  // namespace

CephAddress ceph_address(const Domain& domain, const DomainRbd& rbd) {
  return {rbd.conf, rbd.user, domain.ceph_key(rbd), rbd.monitors, true};
}

std::unique_ptr<RbdInstant> plan_rbd(const Domain& domain, const std::vector<DomainDisk>& disks, const Manifest* parent,
                                     bool full, const std::string& prefix, const std::string& id,
                                     const std::function<bool(const DiskMap&)>& is_whole) {
  std::vector<RbdSource> sources;
  for (const DomainDisk& disk : disks) {
    if (!disk.rbd) continue;
    RbdSource source{disk.target,
                     ceph_address(domain, *disk.rbd),
                     {disk.rbd->pool, disk.rbd->name_space, disk.rbd->image},
                     std::nullopt,
                     0,
                     {}};
    if (full)
      source.full_reason = "asked for";
    else
      choose_base(source, disk, parent, is_whole);
    sources.push_back(std::move(source));
  }
  if (sources.empty()) return nullptr;
  auto instant = std::make_unique<RbdInstant>(sources, prefix, domain.uuid(), id);
  instant->make_groups();
  return instant;
}

}  // namespace stillpoint
