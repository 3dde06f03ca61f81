// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/ceph/cluster.hh"
#include "host/ceph/rbd.hh"
#include "host/repository/manifest.hh"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace stillpoint {

/// The replica that a domain is booted from, instead of the repository.
struct ReplicaToBoot {
  CephAddress address;
  RbdPlace pool;       ///< without an image
  std::string images;  ///< they are called so, and "-vda"
  std::string conf;    ///< for the definition; may be empty
  std::string secret;  ///< UUID of libvirt's secret with the user's key; may be empty
};

/// Clones of the RBD snapshots that a replica has of a still point: a domain's disks, at once and without a copy.
class ReplicaClones {
 public:
  struct Clone {
    std::string disk;  ///< "vda"
    RbdPlace parent;
    std::string snapshot;
    RbdPlace place;
  };

  /// Finds the snapshots, and makes nothing yet. `domain`: the new one's name. Throws NotFound when the replica does
  /// not have all disks of the still point, Corruption when it has others by that name or damaged ones, UsageError for
  /// a domain whose name cannot be an image's, CephError.
  ReplicaClones(const ReplicaToBoot& replica, const Manifest& manifest, const std::string& domain);

  [[nodiscard]] const std::vector<Clone>& clones() const noexcept { return clones_; }
  /// Writes down in `file` what is made, then makes it.
  void make(const std::filesystem::path& file);

 private:
  std::string conf_;  ///< to find the cluster again by; may be empty
  std::string user_;
  std::string fsid_;
  std::shared_ptr<RbdPool> pool_;
  std::vector<Clone> clones_;
};

/// Removes the clones that `file` names, and then that; nothing where it is not there. Waits for a moment while
/// somebody still has one open. Throws CephError, Locked, ConfigError when the cluster is another one now.
void remove_clones(const std::filesystem::path& file);

}  // namespace stillpoint
