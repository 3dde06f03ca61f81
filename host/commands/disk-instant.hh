// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/rbd-instant.hh"
#include "host/commands/capture-levels.hh"
#include "host/guest/backup-job.hh"
#include "host/guest/domain.hh"
#include "host/repository/manifest.hh"
#include "host/repository/repository.hh"

#include <chrono>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// What a domain's disks are captured by.
struct DiskInstantRequest {
  const Domain& domain;
  std::vector<DomainDisk> disks;  ///< those that are wanted
  Repository& repository;
  const Manifest* parent;  ///< the previous still point of this domain; may be null
  bool full;               ///< read every disk in full
  std::string id;          ///< of the still point
  bool running;
  std::filesystem::path scratch;  ///< for what the guest overwrites while its disks are read
};

/// All disks of a domain at one instant: a backup job of libvirt for those that QEMU alone can read at an instant, RBD
/// snapshots for Ceph's. The scope undoes what was begun, unless keep() was called.
class DiskInstant {
 public:
  /// Begins to make scratch files and to ask the Ceph cluster, while others look at the domain. The request's
  /// references outlive it.
  explicit DiskInstant(DiskInstantRequest request);
  DiskInstant(const DiskInstant&) = delete;
  DiskInstant& operator=(const DiskInstant&) = delete;
  ~DiskInstant();

  /// Decides for each disk whether it is read in full. Throws Locked, CaptureError (the disks were changed just now),
  /// and what keeps an RBD image from being captured.
  void plan();
  /// What can be made before the freeze window.
  void prepare();
  /// The instant. Throws Locked, CaptureError.
  void take();
  /// Learns what was taken; after the window. Throws CaptureError.
  void settle();

  /// From the call of take() to its return.
  [[nodiscard]] std::chrono::microseconds took() const noexcept { return took_; }
  /// Whether all disks have one instant even when the guest was not frozen.
  [[nodiscard]] bool is_atomic() const noexcept;
  /// The disks as they were at the instant, in the order of the request; those that are read incrementally on top of
  /// the parent's. Images that no guest uses are not among them.
  [[nodiscard]] std::vector<DiskSource> sources();
  /// libvirt's checkpoint that the next still point starts from; empty when there is none.
  [[nodiscard]] std::string checkpoint() const;
  /// Throws CaptureError when what was read is worthless: the job has ended.
  void check() const;
  /// After the manifest is committed: what the next still point starts from stays, what the previous one left goes.
  /// Throws Error when that failed.
  void keep();

 private:
  void plan_job();
  [[nodiscard]] std::optional<DiskMap> base_of(const DomainDisk& disk, const std::string& full_reason) const;
  [[nodiscard]] DiskSource source_by_job(const DomainDisk& disk);
  [[nodiscard]] DiskSource source_by_rbd(const DomainDisk& disk) const;

  DiskInstantRequest request_;
  std::string prefix_;
  std::vector<DomainDisk> job_disks_;
  std::unique_ptr<StoreLock> domain_lock_;
  std::unique_ptr<BackupJob> job_;
  std::future<std::unique_ptr<RbdInstant>> rbd_soon_;
  std::unique_ptr<RbdInstant> rbd_;
  std::chrono::microseconds took_{0};
};

}  // namespace stillpoint
