// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/rate-limit.hh"
#include "host/commands/command.hh"
#include "host/repository/manifest.hh"
#include "host/restore/rbd-target.hh"

#include <filesystem>
#include <optional>
#include <string>

namespace stillpoint {

/// How all of a still point's disks are brought back at once.
struct DomainRestore {
  bool in_place = false;            ///< in the places that the disks had
  std::filesystem::path directory;  ///< where new images go, and the definition; empty in place
  std::string name;                 ///< of a new domain; empty for the same one again
  std::string volume_group;         ///< where its disks become logical volumes; empty: images in the directory
  std::string thin_pool;            ///< of that group; may be empty
  std::optional<RbdPlace> rbd{};    ///< the pool where its disks become images
  RbdRestore images{};              ///< how they do, also in place
  std::string ceph_secret{};        ///< libvirt's, for the definition
  bool define = false;              ///< in libvirt
  bool overwrite = false;
};

/// Writes the disks and, beside them, the domain's definition. Into the places that they had only while the domain is
/// shut off. Throws UsageError, StorageError, Corruption, CaptureError, Unreachable.
[[nodiscard]] ExitCode restore_domain(Repository& repository, const Manifest& manifest, const DomainRestore& wanted,
                                      RateLimit* limit, const Invocation& invocation);

}  // namespace stillpoint
