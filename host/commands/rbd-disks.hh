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

/// Why a disk is read in full whose map in the previous still point cannot be built on.
inline constexpr const char* earlier_is_damaged = "some of what the previous still point holds of it is damaged";

/// The RBD snapshots of those of the disks that are Ceph RBD images; null when none is. `parent`: the previous still
/// point; `is_whole`: whether one of its maps can be built on. Everything that can be checked before the freeze window
/// is. Throws NotFound, ConfigError, Unreachable, CaptureError.
[[nodiscard]] std::unique_ptr<RbdInstant> plan_rbd(const Domain& domain, const std::vector<DomainDisk>& disks,
                                                   const Manifest* parent, bool full, const std::string& prefix,
                                                   const std::string& id,
                                                   const std::function<bool(const DiskMap&)>& is_whole);

}  // namespace stillpoint
