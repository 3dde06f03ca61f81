// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/ceph/cluster.hh"
#include "host/ceph/rbd.hh"
#include "host/repository/manifest.hh"
#include "host/restore/disk-target.hh"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace stillpoint {

/// How disks become RBD images.
struct RbdRestore {
  CephAddress address{};
  RbdLayout layout{};      ///< of new images; what it does not say is as their disk had it
  bool overwrite = false;  ///< images that are there
  bool force = false;      ///< also those that somebody has open
};

/// RBD images that disks are restored to. New ones have another name until they are complete; all that were made are
/// removed again, unless keep() was called. An image that was there keeps its snapshots and its layout.
class RbdImages {
 public:
  /// Connects, and makes none yet. Throws ConfigError, Unreachable.
  explicit RbdImages(RbdRestore wanted);
  RbdImages(const RbdImages&) = delete;
  RbdImages& operator=(const RbdImages&) = delete;
  ~RbdImages();

  [[nodiscard]] const std::string& fsid() const { return cluster_->fsid(); }
  /// Whether there is such an image. Throws NotFound without such a pool.
  [[nodiscard]] bool has(const RbdPlace& place) { return pool_of(place)->has(place.image); }
  /// Throws NotFound without such a pool, UsageError for a name that others would read as another one, and when
  /// the image is there and not to be overwritten, Locked when somebody has it open.
  void check(const RbdPlace& place);
  /// Opens the image, or makes it, for a disk. One that is there is resized with the first write. Throws the same,
  /// CephError.
  [[nodiscard]] std::unique_ptr<DiskTarget> open(const RbdPlace& place, const DiskRecord& disk);
  /// They stay.
  void keep() noexcept { made_.clear(); }

 private:
  [[nodiscard]] const std::shared_ptr<RbdPool>& pool_of(const RbdPlace& place);

  RbdRestore wanted_;
  std::shared_ptr<CephCluster> cluster_;
  std::map<std::pair<std::string, std::string>, std::shared_ptr<RbdPool>> pools_;  ///< by pool and namespace
  std::vector<std::shared_ptr<RbdPlace>> made_;
};

}  // namespace stillpoint
