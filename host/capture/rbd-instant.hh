// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/rbd-disk.hh"
#include "host/ceph/cluster.hh"
#include "host/ceph/rbd.hh"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// A disk of the still point that is to be.
struct RbdSource {
  std::string target;  ///< "vda"
  CephAddress address;
  RbdPlace place;
  std::optional<RbdBase> base;  ///< of the previous still point, where its map is whole
  std::uint64_t base_size = 0;  ///< bytes that the disk had then
  std::string full_reason;      ///< why there is none
};

/// The RBD snapshots of one still point. Of a single image, one is taken at the instant and stays as the next one's
/// base. Several images have one instant together only by a snapshot of a group, which cannot be a base: their bases
/// are taken just before it. What was written between base and instant is noted, and read once more the next time. The
/// scope removes what was made, unless keep() was called.
class RbdInstant {
 public:
  /// Opens the images and decides what is read in full. `prefix` ("stillpoint.<repository>.") begins the names of all
  /// that is made, `domain` tells it from other domains'. Throws NotFound, ConfigError, Unreachable, CephError,
  /// CaptureError (an image that cannot be captured, and why).
  RbdInstant(const std::vector<RbdSource>& sources, const std::string& prefix, const std::string& domain,
             const std::string& id);
  RbdInstant(const RbdInstant&) = delete;
  RbdInstant& operator=(const RbdInstant&) = delete;
  ~RbdInstant();

  /// Makes what several images need for one instant, and removes what a run that was killed has left of that.
  void make_groups();
  /// Takes the bases of several images, as late as possible before the freeze window. Throws CaptureError when it takes
  /// longer than `limit`, CephError, Unreachable.
  void prepare(std::chrono::milliseconds limit);
  /// The instant: begins to take the snapshots.
  void start();
  /// Throws CaptureError when they are not there within `limit`, CephError, Unreachable.
  void wait(std::chrono::milliseconds limit);
  /// Learns what was taken: after the window, for nothing that can wait has a place in it. Throws CaptureError.
  void settle();
  /// Throws CaptureError when what is read, or what it is compared with, was removed meanwhile: it would read as zeros.
  void check() const;
  /// Whether all its images have one instant even when nobody was frozen.
  [[nodiscard]] bool is_atomic() const noexcept;

  /// Why it is read in full; empty when it is not.
  [[nodiscard]] const std::string& full_reason(const std::string& target) const;
  /// What the next still point starts from.
  [[nodiscard]] RbdBase next_base(const std::string& target) const;
  /// A reader of the disk as it was at the instant; may be called from several threads.
  [[nodiscard]] std::unique_ptr<QueuedReader> open(const std::string& target) const;

  /// After the manifest is committed: the new bases stay, and what earlier still points of this repository left on the
  /// images goes, now or with the next one.
  void keep() noexcept;

 private:
  struct Cluster;
  struct Disk;
  class Taking;
  class Tidying;

  [[nodiscard]] const Disk& disk(const std::string& target) const;
  void check_base(Disk& disk) const;
  void take_snapshot(Disk& disk) const;
  void remove_stale_groups();
  void learn_between(Disk& disk) const;
  void undo() noexcept;
  /// Our groups go, and of each disk what `remove_snapshots` removes.
  void tidy(const std::function<void(Disk& disk)>& remove_snapshots) noexcept;

  std::string prefix_;
  std::string group_;  ///< the name of each group that is made
  std::string snapshot_;
  std::string domain_;
  std::vector<std::unique_ptr<Cluster>> clusters_;
  std::vector<std::unique_ptr<Disk>> disks_;
  std::unique_ptr<Taking> taking_;
  bool kept_ = false;
};

}  // namespace stillpoint
