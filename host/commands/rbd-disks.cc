// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/rbd-disks.hh"

#include <algorithm>
#include <utility>

namespace stillpoint {
namespace {

/// Fills in what the disk's changes are told by, or why they are not.
void choose_base(RbdSource& source, const DomainDisk& disk, const Manifest* parent,
                 const std::function<EarlierMap(const DiskRecord&)>& look) {
  const DiskRecord* earlier = nullptr;
  if (parent != nullptr) {
    const auto found = std::ranges::find(parent->disks, disk.target, &DiskRecord::target);
    if (found != parent->disks.end()) earlier = &*found;
  }
  if (earlier == nullptr) {
    source.full_reason = parent == nullptr ? "no earlier still point in this repository"
                                           : "the previous still point does not hold this disk";
  } else if (!earlier->rbd) {
    source.full_reason = "the previous still point left no RBD snapshot of it";
  } else if (look(*earlier) != EarlierMap::whole) {
    source.full_reason = "some of what the previous still point holds of it is damaged";
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
                                     const std::function<EarlierMap(const DiskRecord&)>& look) {
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
      choose_base(source, disk, parent, look);
    sources.push_back(std::move(source));
  }
  if (sources.empty()) return nullptr;
  return std::make_unique<RbdInstant>(sources, prefix, domain.uuid(), id);
}

}  // namespace stillpoint
