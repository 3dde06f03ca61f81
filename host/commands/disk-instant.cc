// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/disk-instant.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "host/capture/nbd-disk.hh"
#include "host/commands/rbd-disks.hh"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>

namespace stillpoint {
namespace {

/// The guest is frozen meanwhile: longer than this is a failure, shorter than its own deadline.
constexpr std::chrono::seconds snapshot_limit{15};

const BackupDisk& planned(const BackupJob& job, const std::string& target) {
  return *std::ranges::find(job.plan().disks, target, &BackupDisk::target);
}

}  // namespace

DiskInstant::DiskInstant(DiskInstantRequest request)
    : request_(std::move(request)), prefix_(fmt::format("stillpoint.{}.", request_.repository.id().substr(0, 8))) {
  std::vector<DomainDisk> in_ceph;
  for (const DomainDisk& disk : request_.disks)
    (disk.rbd ? in_ceph : job_disks_).push_back(disk);
  if (request_.running && !job_disks_.empty())
    job_ = std::make_unique<BackupJob>(request_.domain, job_disks_, request_.scratch);
  if (in_ceph.empty()) return;
  domain_lock_ = request_.repository.lock_domain(request_.domain.uuid());
  rbd_soon_ = std::async(std::launch::async, [this, in_ceph = std::move(in_ceph)] {
    return plan_rbd(request_.domain, in_ceph, request_.parent, request_.full, prefix_, request_.id,
                    [this](const DiskMap& map) { return request_.repository.is_whole(map); });
  });
}

// The job first: it costs the guest, and a cluster that does not answer takes its time.
DiskInstant::~DiskInstant() {
  job_.reset();
}

void DiskInstant::plan_job() {
  const Manifest* const parent = request_.parent;
  const std::string base = parent != nullptr && !request_.full ? parent->checkpoint : std::string();
  std::vector<std::string> known;
  std::vector<std::string> damaged;  ///< read in full, so that what was lost of them is stored again
  for (const DomainDisk& disk : job_disks_) {
    // Of the same target, but not of another image there: its bitmap may have the same name.
    const DiskRecord* const earlier = parent == nullptr ? nullptr : disk_record(*parent, disk.target);
    if (earlier == nullptr || earlier->source != disk.source) continue;
    (request_.repository.is_whole(earlier->map) ? known : damaged).push_back(disk.target);
  }
  BackupPlan plan = plan_backup(request_.domain, prefix_ + request_.id, base, known);
  for (BackupDisk& disk : plan.disks)
    if (std::ranges::count(damaged, disk.target) != 0) disk.full_reason = earlier_is_damaged;
  std::erase_if(plan.disks, [&](const BackupDisk& d) {
    return std::ranges::find(job_disks_, d.target, &DomainDisk::target) == job_disks_.end();
  });
  if (std::none_of(plan.disks.begin(), plan.disks.end(), [](const BackupDisk& d) { return d.checkpoint; }))
    plan.checkpoint.clear();
  // The guest's disks are plugged and unplugged while we look.
  const bool same = std::equal(job_disks_.begin(), job_disks_.end(), plan.disks.begin(), plan.disks.end(),
                               [](const DomainDisk& a, const BackupDisk& b) { return a.target == b.target; });
  if (!same)
    throw CaptureError(fmt::format("the disks of {} were changed just now", request_.domain.name()), "try again");
  job_->prepare(std::move(plan));
}

void DiskInstant::plan() {
  if (job_) plan_job();
  if (rbd_soon_.valid()) rbd_ = rbd_soon_.get();
}

void DiskInstant::prepare() {
  if (rbd_) rbd_->prepare(snapshot_limit);
}

void DiskInstant::take() {
  const auto begun = SteadyClock::now();
  if (rbd_) rbd_->start();
  if (job_) job_->begin();
  // All of it within one limit: the guest waits.
  const auto gone = std::chrono::duration_cast<std::chrono::milliseconds>(SteadyClock::now() - begun);
  if (rbd_) rbd_->wait(std::max<std::chrono::milliseconds>(snapshot_limit - gone, std::chrono::milliseconds(0)));
  took_ = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun);
}

void DiskInstant::settle() {
  if (!rbd_) return;
  rbd_->settle();
  if (!request_.running) return;
  // Of the job's disks it is known; the guest may have gone on with another image since the first look.
  const std::vector<DomainDisk> now = request_.domain.disks();
  for (const DomainDisk& disk : request_.disks) {
    const auto found = std::ranges::find(now, disk.target, &DomainDisk::target);
    if (found == now.end() || found->source != disk.source || found->rbd != disk.rbd)
      throw CaptureError(fmt::format("the disks of {} were changed just now", request_.domain.name()), "try again");
  }
}

bool DiskInstant::is_atomic() const noexcept {
  return !rbd_ || (job_disks_.empty() && rbd_->is_atomic());
}

/// What an incremental is built on.
std::optional<DiskMap> DiskInstant::base_of(const DomainDisk& disk, const std::string& full_reason) const {
  if (request_.parent == nullptr || !full_reason.empty()) return std::nullopt;
  const DiskRecord* const earlier = disk_record(*request_.parent, disk.target);
  return earlier == nullptr ? std::nullopt : std::optional(earlier->map);
}

DiskSource DiskInstant::source_by_job(const DomainDisk& disk) {
  const BackupDisk& part = planned(*job_, disk.target);
  const bool incremental = part.full_reason.empty();
  DiskSource source{disk.target, disk.source, disk.format, part.full_reason, base_of(disk, part.full_reason),
                    {},          std::nullopt};
  source.open = [&job = *job_, target = disk.target, incremental] {
    const BackupJob::Export from = job.export_of(target);
    return std::make_unique<NbdDisk>(from.socket, from.name, incremental ? from.dirty_bitmap : std::string());
  };
  return source;
}

DiskSource DiskInstant::source_by_rbd(const DomainDisk& disk) const {
  const std::string& full_reason = rbd_->full_reason(disk.target);
  return {disk.target,
          disk.source,
          disk.format,
          full_reason,
          base_of(disk, full_reason),
          [&rbd = *rbd_, target = disk.target] { return rbd.open(target); },
          rbd_->next_base(disk.target)};
}

std::vector<DiskSource> DiskInstant::sources() {
  std::vector<DiskSource> sources;
  for (const DomainDisk& disk : request_.disks) {
    if (disk.rbd)
      sources.push_back(source_by_rbd(disk));
    else if (job_)
      sources.push_back(source_by_job(disk));
  }
  return sources;
}

std::string DiskInstant::checkpoint() const {
  return job_ ? job_->plan().checkpoint : std::string();
}

void DiskInstant::check() const {
  if (job_) job_->check();
  if (rbd_) rbd_->check();
}

void DiskInstant::keep() {
  // The job first: it costs the guest, and a cluster that does not answer takes its time.
  std::exception_ptr failure;
  try {
    if (job_) job_->keep_checkpoint(request_.parent != nullptr ? request_.parent->checkpoint : "");
  } catch (const Error&) {
    failure = std::current_exception();
  }
  if (rbd_) rbd_->keep();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace stillpoint
