// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/rbd-instant.hh"
#include "host/guest/domain.hh"
#include "host/repository/manifest.hh"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// How the cluster of a domain's disk is reached: as libvirt says. Throws ConfigError (no key for us).
[[nodiscard]] CephAddress ceph_address(const Domain& domain, const DomainRbd& rbd);

/// Whether what the previous still point holds of a disk can be built on.
enum class EarlierMap { none, whole, damaged };

/// The RBD snapshots of those of the disks that are Ceph RBD images; null when none is. `parent`: the previous still
/// point; `look` tells of its map of a disk. Everything that can be checked before the freeze window is. Throws
/// NotFound, ConfigError, Unreachable, CaptureError.
[[nodiscard]] std::unique_ptr<RbdInstant> plan_rbd(const Domain& domain, const std::vector<DomainDisk>& disks,
                                                   const Manifest* parent, bool full, const std::string& prefix,
                                                   const std::string& id,
                                                   const std::function<EarlierMap(const DiskRecord&)>& look);

}  // namespace stillpoint
