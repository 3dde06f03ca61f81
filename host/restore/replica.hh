// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/rate-limit.hh"
#include "host/ceph/cluster.hh"
#include "host/ceph/rbd.hh"
#include "host/repository/repository.hh"
#include "host/restore/replica-record.hh"
#include "host/restore/restore-disk.hh"

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

namespace stillpoint {

/// How a disk came into its replica.
struct ReplicatedDisk {
  enum class Mode {
    full,          ///< all of it was written
    compared,      ///< the image was read, and what was another one was written
    differential,  ///< what is another one than in the replica's newest still point was written
    present,       ///< the replica had the still point already
  };
  Mode mode = Mode::full;
  std::string base{};    ///< that still point; of mode differential
  std::string reason{};  ///< why it is not differential
  WrittenRanges written{};
  std::uint64_t read = 0;  ///< bytes of the replica
  bool damaged = false;    ///< an earlier verify() has found it so; of mode present
};

/// What came of a replica's old still points.
struct ReplicaRetention {
  struct Kept {
    std::string still_point;
    std::string reason;  ///< why it is there against the rules
  };
  std::vector<std::string> removed;
  std::vector<Kept> kept;
};

/// One disk's image in another pool or cluster: it has an RBD snapshot for each still point that was replicated. While
/// it lives, no other stillpoint writes there.
class Replica {
 public:
  /// Opens the image, or makes it, by `layout` (its size does not count). Throws UsageError for an image that is there
  /// and no replica of this disk, Locked (also when somebody else has it open to write), CephError.
  Replica(std::shared_ptr<RbdPool> pool, const RbdPlace& place, const std::string& domain, const std::string& disk,
          const RbdLayout& layout);
  Replica(const Replica&) = delete;
  Replica& operator=(const Replica&) = delete;
  ~Replica();

  [[nodiscard]] const RbdPlace& place() const noexcept { return place_; }

  /// Makes the image the still point's disk and takes its snapshot. `full`: compares all of it. Throws UsageError for a
  /// still point that is older than the replica's newest. Interrupted, the next one goes on where it was.
  [[nodiscard]] ReplicatedDisk replicate(Repository& repository, const Manifest& manifest, const DiskRecord& disk,
                                         bool full, CaptureProgress& progress, RateLimit* limit);

  /// Where the replica's still point is another one than the repository's; the replica remembers whether it is
  /// somewhere. Throws NotFound when it does not have it.
  [[nodiscard]] std::vector<Extent> verify(Repository& repository, const Manifest& manifest, const DiskRecord& disk,
                                           CaptureProgress& progress);

  /// Removes the snapshots of still points that the policy does not keep, but the newest, and those that have clones or
  /// are protected. Damaged ones stay, and count as none.
  [[nodiscard]] ReplicaRetention retain(const RetentionPolicy& policy);

 private:
  class Target;

  void make(const std::string& domain, const std::string& disk, const RbdLayout& layout);
  void write(Repository& repository, const DiskRecord& disk, const ReplicaSnapshot* base, ReplicatedDisk& result,
             CaptureProgress& progress, RateLimit* limit);
  [[nodiscard]] std::vector<Extent> written_since(const ReplicaSnapshot& base);

  std::shared_ptr<RbdPool> pool_;
  RbdPlace place_;
  bool is_new_ = false;
  std::unique_ptr<RbdImage> image_;
  std::unique_ptr<RbdLock> lock_;
};

/// Why a copy in that pool of that cluster would be lost with the disk itself; empty when it would not.
[[nodiscard]] std::string shared_fate(const DiskRecord& disk, const std::string& fsid, const std::string& pool);

}  // namespace stillpoint
