// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/scratch-watch.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "common/signal-mask.hh"
#include "host/guest/session.hh"
#include "host/guest/virt-error.hh"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <chrono>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t mebibyte = std::uint64_t{1} << 20;
constexpr std::uint64_t least_floor = 64 * mebibyte;
constexpr std::uint64_t most_floor = 512 * mebibyte;
constexpr std::chrono::milliseconds look_every = 100ms;
constexpr std::chrono::milliseconds look_after_error = 2s;

}  // namespace

std::uint64_t scratch_floor(std::uint64_t file_system_bytes) noexcept {
  return std::clamp(file_system_bytes / 20, least_floor, most_floor);
}

Space space_of(const std::filesystem::path& directory) {
  struct statvfs found {};
  if (::statvfs(directory.c_str(), &found) != 0)
    throw_errno<CaptureError>(fmt::format("cannot see the free space of {}", directory.native()));
  return {std::uint64_t{found.f_bavail} * found.f_frsize, std::uint64_t{found.f_blocks} * found.f_frsize};
}

ScratchWatch::ScratchWatch(const Domain& domain, const std::filesystem::path& directory)
    : domain_(domain), directory_(directory) {
  const AllSignalsBlocked blocked;
  thread_ = std::thread([this] { watch(); });
}

ScratchWatch::~ScratchWatch() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

std::string ScratchWatch::verdict() const {
  const std::lock_guard lock(mutex_);
  return verdict_;
}

void ScratchWatch::watch() {
  std::unique_lock lock(mutex_);
  std::chrono::milliseconds pause = look_every;
  while (!wake_.wait_for(lock, pause, [this] { return stopped_; })) {
    lock.unlock();
    bool ended = false;
    pause = look_every;
    try {
      const Space space = space_of(directory_);
      if (space.free < scratch_floor(space.size)) {
        abort_job(space);
        ended = true;
      }
    } catch (const std::exception& error) {
      log_warning("the scratch space of {}: {}", domain_.name(), error.what());
      pause = look_after_error;
    }
    lock.lock();
    if (ended) return;
  }
}

void ScratchWatch::abort_job(const Space& space) {
  {
    const std::lock_guard lock(mutex_);
    verdict_ = fmt::format("only {} MiB are left in {} for what {} overwrites during the backup: the job was aborted",
                           space.free / mebibyte, directory_.parent_path().native(), domain_.name());
  }
  const std::shared_ptr<virDomain> target = domain_.state()->reach();
  if (virDomainAbortJob(target.get()) < 0) throw_virt<CaptureError>("cannot abort the backup job");
}

}  // namespace stillpoint
