// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"
#include "host/guest/domain-xml.hh"

#include <filesystem>
#include <optional>
#include <vector>

namespace stillpoint {

/// What a backup job needs on the host: its NBD socket and scratch files, in a directory of their own that QEMU's user
/// owns. A lock file in it tells whether the companion that made it lives.
class JobDirectory {
 public:
  /// Makes one below `scratch`, ours alone. Throws CaptureError.
  explicit JobDirectory(const std::filesystem::path& scratch);
  JobDirectory(const JobDirectory&) = delete;
  JobDirectory& operator=(const JobDirectory&) = delete;
  ~JobDirectory();

  /// Gives QEMU's user the directory, to make the socket in it, and `files`, which are in it. From then on it may hold
  /// anything: open nothing in it by name. Throws CaptureError.
  void give_to(const std::optional<UserAndGroup>& owner, const std::vector<std::filesystem::path>& files) const;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] std::filesystem::path socket() const { return path_ / "nbd.sock"; }

  /// The directory of the job whose socket this is, when one of ours made it and has died; empty otherwise.
  [[nodiscard]] static std::filesystem::path abandoned(const std::filesystem::path& socket);

 private:
  std::filesystem::path path_;
  UniqueFd lock_;
};

}  // namespace stillpoint
