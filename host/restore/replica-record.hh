// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "host/ceph/rbd.hh"
#include "host/repository/manifest.hh"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// What an RBD snapshot of a replica is, as the image's metadata say.
struct ReplicaSnapshot {
  std::string snapshot;         ///< its name: the time in the still point's
  std::uint64_t snapshot_id{};  ///< RBD's; 0 while it is to be taken
  std::string still_point;      ///< "web1@2026-11-22T08:20:11Z"
  std::string id;               ///< of the still point
  std::string repository;       ///< its id: chunks of another one have other ids
  WallTime instant{};
  DiskMap map;
  bool damaged = false;  ///< it was another one than the still point when it was last read back
};

/// What a replica is a replica of.
struct ReplicaMark {
  std::string image_id;  ///< RBD's: a clone has its parent's metadata
  std::string domain;
  std::string disk;
};

/// Writes the mark of a new image.
void mark_replica(RbdImage& image, std::string_view domain, std::string_view disk);
/// Nothing when the image is no replica. Throws CaptureError for a mark that cannot be read.
[[nodiscard]] std::optional<ReplicaMark> replica_mark(RbdImage& image);

/// Those snapshots of a replica that are still points, in the order in which they were taken. What others have made is
/// not among them.
[[nodiscard]] std::vector<ReplicaSnapshot> replica_snapshots(RbdImage& image);

/// Takes the RBD snapshot of a still point. The image holds it, and nobody writes to it. Interrupted at any point, it
/// can be finished: resume_snapshot(). Throws Locked when the lock was lost, before it is taken.
void take_replica_snapshot(RbdImage& image, RbdLock& lock, ReplicaSnapshot snapshot);
/// Finishes what an interrupted take_replica_snapshot() has begun, or forgets it, and records of snapshots that are
/// gone.
void resume_snapshot(RbdImage& image);
/// Writes down whether it is damaged.
void record_damage(RbdImage& image, ReplicaSnapshot snapshot, bool damaged);
/// Throws CephError with EBUSY for a protected one.
void remove_replica_snapshot(RbdImage& image, const ReplicaSnapshot& snapshot);

}  // namespace stillpoint
