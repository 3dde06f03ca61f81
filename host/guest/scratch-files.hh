// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/guest/job-directory.hh"

#include <cstdint>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// The files that receive what a guest overwrites while a backup job lasts, one for each disk, in a directory of their
/// own. Each is made by a program that has to be started: that goes on while the domain is looked at.
class ScratchFiles {
 public:
  /// Begins to make them below `scratch`: for each target one of so many bytes. `owner`: of QEMU's files. Throws
  /// CaptureError.
  ScratchFiles(std::filesystem::path scratch, std::map<std::string, std::uint64_t> sizes,
               std::optional<UserAndGroup> owner);
  ScratchFiles(const ScratchFiles&) = delete;
  ScratchFiles& operator=(const ScratchFiles&) = delete;
  /// Waits, and removes them.
  ~ScratchFiles();

  /// Waits until they are made and QEMU's. Throws CaptureError.
  void wait();
  /// Others, as new: libvirt may have left something in these.
  void make_anew();

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return directory_->path(); }
  [[nodiscard]] std::filesystem::path socket() const { return directory_->socket(); }

 private:
  void make();

  std::filesystem::path scratch_;
  std::map<std::string, std::uint64_t> sizes_;
  std::optional<UserAndGroup> owner_;
  std::unique_ptr<JobDirectory> directory_;
  std::vector<std::future<void>> making_;
};

}  // namespace stillpoint
