// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/scratch-files.hh"

#include "common/errors.hh"
#include "common/qcow2-image.hh"
#include "host/guest/backup-xml.hh"
#include "host/guest/scratch-watch.hh"

#include <fmt/format.h>

#include <utility>

namespace stillpoint {

ScratchFiles::ScratchFiles(std::filesystem::path scratch, std::map<std::string, std::uint64_t> sizes,
                           std::optional<UserAndGroup> owner)
    : scratch_(std::move(scratch)), sizes_(std::move(sizes)), owner_(owner) {
  make();
}

ScratchFiles::~ScratchFiles() {
  making_.clear();
}

void ScratchFiles::make() {
  directory_ = std::make_unique<JobDirectory>(scratch_);
  const Space space = space_of(path());
  if (space.free < 2 * scratch_floor(space.size))
    throw CaptureError(fmt::format("only {} MiB are free in scratch directory {}", space.free >> 20, scratch_.native()),
                       "what the guest overwrites during the backup is kept there: make room or choose another");
  for (const auto& [target, size] : sizes_)
    making_.push_back(std::async(std::launch::async, create_qcow2, scratch_file(path(), target), size));
}

void ScratchFiles::wait() {
  std::vector<std::filesystem::path> files;
  for (const auto& [target, size] : sizes_)
    files.push_back(scratch_file(path(), target));
  try {
    for (std::future<void>& one : making_)
      one.get();
    making_.clear();
  } catch (const StorageError& error) {
    throw CaptureError(error.what(), error.hint());
  }
  directory_->give_to(owner_, files);
}

void ScratchFiles::make_anew() {
  making_.clear();
  make();
  wait();
}

}  // namespace stillpoint
