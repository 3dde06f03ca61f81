// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/guest/domain-xml.hh"
#include "host/guest/domain.hh"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

class ScratchFiles;
class ScratchWatch;

/// How one disk takes part in a backup job.
struct BackupDisk {
  std::string target;       ///< "vda"
  std::string base;         ///< name of the checkpoint whose changes are wanted; empty for the whole disk
  std::string full_reason;  ///< why it is not incremental; empty when it is
  bool checkpoint = false;  ///< whether the new checkpoint covers it (qcow2)
};

struct BackupPlan {
  std::string checkpoint;  ///< to be created with the job; empty when no disk can have one
  std::vector<BackupDisk> disks;
};

/// Decides disk by disk, but for Ceph RBD disks, which no job is for. `base` is the checkpoint of the previous still
/// point in the same repository (empty when there is none); a disk whose bitmap is lost, broken or was never there is
/// read in full, and only that one. `known` are the targets that the previous still point has a map of. Call it before
/// the freeze window. Throws Locked when another job runs, CaptureError.
[[nodiscard]] BackupPlan plan_backup(const Domain& domain, const std::string& new_checkpoint, const std::string& base,
                                     const std::vector<std::string>& known);

/// Ends the backup job that a dead companion left behind. Throws Locked when any other job runs: libvirt would let a
/// new one wait for its end, in the freeze window. plan_backup() and BackupJob::begin() call it.
void require_no_job(const Domain& domain);

/// Removes the checkpoints whose names begin with `prefix` ("stillpoint.<repository>."), but for `keep`: what failed
/// still points left behind. Never touches others; what cannot be removed is logged. `prefix` is not empty.
void remove_stale_checkpoints(const Domain& domain, std::string_view prefix, const std::string& keep);

/// A pull-mode backup job: from its begin() on the disks can be read over NBD as they were then. The scope ends it.
class BackupJob {
 public:
  /// Makes what can be made before the freeze window: scratch files for these disks of the domain, among them all that
  /// will be planned, while others look at it. `scratch` receives them and the socket; QEMU's user must be able to
  /// search it. Throws CaptureError.
  BackupJob(const Domain& domain, const std::vector<DomainDisk>& disks, const std::filesystem::path& scratch);
  BackupJob(const BackupJob&) = delete;
  BackupJob& operator=(const BackupJob&) = delete;
  /// Ends the job; unless keep_checkpoint() was called, the new checkpoint is removed and the old one stays.
  ~BackupJob();

  /// Throws CaptureError when it has no disk, or one that the domain has no more, or its files cannot be made.
  void prepare(BackupPlan plan);

  /// Begins it for all disks at once, as prepared. Where a bitmap turns out to be broken only now, that disk is read in
  /// full: look at plan() afterwards. Throws Locked when another job runs, CaptureError otherwise.
  void begin();

  struct Export {
    std::filesystem::path socket;
    std::string name;          ///< the NBD export
    std::string dirty_bitmap;  ///< metadata context "qemu:dirty-bitmap:..."; empty for a full read
  };
  [[nodiscard]] Export export_of(const std::string& target) const;
  [[nodiscard]] const BackupPlan& plan() const noexcept { return plan_; }
  [[nodiscard]] std::chrono::microseconds start_took() const noexcept { return start_took_; }

  /// Throws CaptureError when the job is no longer there (the guest was shut off, the job was aborted, the scratch
  /// space ran low): what was read is worthless.
  void check() const;

  /// After the manifest is committed: ends the job, keeps the new checkpoint and removes `old` (may be empty) together
  /// with what failed still points of the same repository left. Throws when the job had failed in between.
  void keep_checkpoint(const std::string& old);

 private:
  void begin_somehow();
  [[nodiscard]] bool read_more_in_full(const std::string& message);
  [[nodiscard]] bool do_without_checkpoint(const std::string& message);
  void end() noexcept;

  Domain domain_;
  BackupPlan plan_;
  std::vector<std::string> all_targets_;
  std::unique_ptr<ScratchFiles> files_;
  std::chrono::microseconds start_took_{0};
  bool running_ = false;
  std::unique_ptr<ScratchWatch> watch_;
};

}  // namespace stillpoint
