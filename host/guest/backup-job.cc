// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/backup-job.hh"

#include "common/bounded-call.hh"
#include "common/clock.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "host/guest/backup-xml.hh"
#include "host/guest/checkpoint.hh"
#include "host/guest/domain-xml.hh"
#include "host/guest/job-directory.hh"
#include "host/guest/scratch-files.hh"
#include "host/guest/scratch-watch.hh"
#include "host/guest/session.hh"
#include "host/guest/virt-error.hh"

#include <fmt/format.h>
#include <libvirt/virterror.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <optional>
#include <thread>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;

/// The guest is frozen meanwhile: longer than this is a failure, shorter than protocol::guest_deadline.
constexpr std::chrono::milliseconds begin_limit = 15s;
/// libvirt takes QEMU's events in turn, and that a program in the guest has closed or opened a port waits 30 s in vain
/// while a backup job runs. An agent that is started again is two of these before the job's own.
constexpr std::chrono::milliseconds end_limit = 75s;

/// The NBD socket of the job that runs now; nullopt when none does. Throws Unreachable, Locked, CaptureError.
std::optional<std::string> running_job_socket(const Domain& domain) {
  const std::shared_ptr<virDomain> target = domain.state()->reach();
  const CPtr<char, std::free> xml(virDomainBackupGetXMLDesc(target.get(), 0));
  if (!xml) {
    const VirtFault fault = last_virt_fault();
    if (fault.code == VIR_ERR_NO_DOMAIN_BACKUP || fault.code == VIR_ERR_OPERATION_INVALID) return std::nullopt;
    throw_virt<CaptureError>(fmt::format("cannot look at the backup job of {}", domain.name()), fault);
  }
  return parse_backup_socket(xml.get());
}

/// Ends the job with this socket and waits until it is over. False when it is still there at the end.
bool end_job(const Domain& domain, const std::string& socket) {
  const Deadline deadline(end_limit);
  bool asked = false;
  while (running_job_socket(domain) == socket) {
    if (deadline.passed()) return false;
    const std::shared_ptr<virDomain> target = domain.state()->reach();
    // Refused while the job is still beginning: ask again.
    if (!asked) asked = virDomainAbortJob(target.get()) == 0;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

/// Ends the job that a companion which has died left behind. False when the running job is somebody else's.
bool end_abandoned_job(const Domain& domain) {
  const std::optional<std::string> socket = running_job_socket(domain);
  if (!socket) return true;  // it has ended by itself
  const std::filesystem::path directory = JobDirectory::abandoned(*socket);
  if (directory.empty()) return false;
  log_warning("{} still has the backup job of a run that died: ending it", domain.name());
  if (!end_job(domain, *socket)) return false;
  std::error_code ignored;
  std::filesystem::remove_all(directory, ignored);
  return true;
}

bool has_any_job(const Domain& domain) {
  const std::shared_ptr<virDomain> target = domain.state()->reach();
  virDomainJobInfo info{};
  return virDomainGetJobInfo(target.get(), &info) == 0 && info.type != VIR_DOMAIN_JOB_NONE;
}

/// One attempt; nullopt when it is not over in time. No fault's code is 0.
std::optional<VirtFault> try_to_begin(const Domain& domain, const std::string& backup, const std::string& checkpoint) {
  return bounded_call(Deadline(begin_limit), [domain, backup, checkpoint]() -> VirtFault {
    const std::shared_ptr<virDomain> target = domain.state()->reach();
    // With our own scratch files: libvirt would make them now, while the guest stands still.
    if (virDomainBackupBegin(target.get(), backup.c_str(), checkpoint.empty() ? nullptr : checkpoint.c_str(),
                             VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL) == 0)
      return {};
    return last_virt_fault();
  });
}

bool is_about_other_job(const VirtFault& fault) {
  return fault.busy() || (fault.code == VIR_ERR_OPERATION_INVALID && fault.message.find("job") != std::string::npos);
}

bool is_about_bitmaps(const VirtFault& fault) {
  return fault.code == VIR_ERR_CHECKPOINT_INCONSISTENT || fault.code == VIR_ERR_NO_DOMAIN_CHECKPOINT ||
         fault.message.find("bitmap") != std::string::npos || fault.message.find("checkpoint") != std::string::npos;
}

}  // namespace

void require_no_job(const Domain& domain) {
  if (!running_job_socket(domain) && !has_any_job(domain)) return;
  if (end_abandoned_job(domain) && !has_any_job(domain)) return;
  throw Locked(fmt::format("another program runs a job on {}", domain.name()),
               fmt::format("wait for it to end, or look at it with virsh domjobinfo {}", domain.name()));
}

BackupJob::BackupJob(const Domain& domain, const std::vector<DomainDisk>& disks, const std::filesystem::path& scratch)
    : domain_(domain) {
  const DomainDefinition definition = parse_domain_xml(domain_.xml(), true);
  for (const DomainDisk& disk : definition.disks)
    all_targets_.push_back(disk.target);
  for (const SkippedDisk& disk : definition.skipped)
    all_targets_.push_back(disk.target);
  std::map<std::string, std::uint64_t> sizes;
  for (const DomainDisk& disk : disks)
    sizes.emplace(disk.target, disk.size);
  files_ = std::make_unique<ScratchFiles>(scratch, std::move(sizes), definition.owner);
}

void BackupJob::prepare(BackupPlan plan) {
  plan_ = std::move(plan);
  if (plan_.disks.empty()) throw CaptureError(fmt::format("{} has no disk to back up", domain_.name()));
  for (const BackupDisk& disk : plan_.disks)
    if (std::find(all_targets_.begin(), all_targets_.end(), disk.target) == all_targets_.end())
      throw CaptureError(fmt::format("{} has no disk {} any more", domain_.name(), disk.target), "try again");
  files_->wait();
}

void BackupJob::begin() {
  const auto begun = SteadyClock::now();
  require_no_job(domain_);
  running_ = true;  // whatever libvirt leaves of one that fails has to be ended too
  begin_somehow();
  start_took_ = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun);
  watch_ = std::make_unique<ScratchWatch>(domain_, files_->path());
}

void BackupJob::begin_somehow() {
  while (true) {
    const std::string checkpoint = plan_.checkpoint.empty() ? std::string() : checkpoint_xml(plan_, all_targets_);
    const auto answer = try_to_begin(domain_, backup_xml(plan_, files_->path(), all_targets_), checkpoint);
    if (!answer) throw CaptureError(fmt::format("libvirt does not begin the backup job of {} in time", domain_.name()));
    const VirtFault& fault = *answer;
    if (fault.code == 0) return;
    const std::string what = fmt::format("cannot begin the backup job of {}", domain_.name());
    if (is_about_other_job(fault))
      throw Locked(virt_message(what, fault), "another program began a job just now: virsh domjobinfo");
    if (!is_about_bitmaps(fault) || (!read_more_in_full(fault.message) && !do_without_checkpoint(fault.message)))
      throw_virt<CaptureError>(what, fault);
    // What libvirt has undone may have left something in the scratch files.
    files_->make_anew();
  }
}

/// The disk that libvirt complains about, or all of them where it names none, without their base. False when no disk
/// had one.
bool BackupJob::read_more_in_full(const std::string& message) {
  const std::string blamed = blamed_disk(message, plan_);
  bool changed = false;
  for (BackupDisk& disk : plan_.disks) {
    if (disk.base.empty() || (!blamed.empty() && disk.target != blamed)) continue;
    disk.base.clear();
    disk.full_reason = message;
    changed = true;
    log_warning("disk {} of {} is read in full: {}", disk.target, domain_.name(), message);
  }
  return changed;
}

/// A still point without a checkpoint is a good one: the next is a full read. False when there was none.
bool BackupJob::do_without_checkpoint(const std::string& message) {
  if (plan_.checkpoint.empty()) return false;
  log_warning("{} gets no checkpoint, the next still point reads its disks in full: {}", domain_.name(), message);
  plan_.checkpoint.clear();
  for (BackupDisk& disk : plan_.disks)
    disk.checkpoint = false;
  return true;
}

BackupJob::~BackupJob() {
  if (running_) end();
}

void BackupJob::end() noexcept {
  try {
    watch_.reset();
    running_ = false;
    const std::string socket = files_->socket();
    // First: without its scratch files a job that libvirt has yet to begin does not begin.
    files_.reset();
    if (!end_job(domain_, socket))
      log_error("the backup job of {} does not end: virsh domjobabort {}", domain_.name(), domain_.name());
    if (!plan_.checkpoint.empty()) remove_checkpoint(domain_, plan_.checkpoint);
  } catch (const std::exception& error) {
    log_error("the backup job of {} may be left behind: {}", domain_.name(), error.what());
  }
}

BackupJob::Export BackupJob::export_of(const std::string& target) const {
  const auto disk =
      std::find_if(plan_.disks.begin(), plan_.disks.end(), [&](const BackupDisk& it) { return it.target == target; });
  if (disk == plan_.disks.end()) throw NotFound(fmt::format("the backup job has no disk {}", target));
  return {files_->socket(), target, disk->base.empty() ? std::string() : "qemu:dirty-bitmap:" + export_bitmap(target)};
}

void BackupJob::check() const {
  if (const std::string verdict = watch_ ? watch_->verdict() : std::string(); !verdict.empty())
    throw CaptureError(verdict, "make room there or choose another scratch directory, then try again");
  if (running_job_socket(domain_) != files_->socket())
    throw CaptureError(fmt::format("the backup job of {} has ended before its disks were read", domain_.name()),
                       "the domain was shut off, or the job was aborted: try again");
}

void BackupJob::keep_checkpoint(const std::string& old) {
  check();
  watch_.reset();
  running_ = false;
  if (!end_job(domain_, files_->socket()))
    log_error("the backup job of {} does not end: virsh domjobabort {}", domain_.name(), domain_.name());
  if (!old.empty() && old != plan_.checkpoint) remove_checkpoint(domain_, old);
  // "stillpoint.<repository>.<still point>": what stands before the last dot is this repository's alone.
  if (const std::size_t dot = plan_.checkpoint.rfind('.'); dot != std::string::npos && dot > 0)
    remove_stale_checkpoints(domain_, std::string_view(plan_.checkpoint).substr(0, dot + 1), plan_.checkpoint);
}

}  // namespace stillpoint
