// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"
#include "common/program.hh"
#include "host/capture/appliance/confinement.hh"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace stillpoint {

/// A file system that is to be mounted.
struct KernelDevice {
  std::string name;
  std::uint64_t size = 0;  ///< bytes
  std::string type;        ///< "xfs"
};

/// One that is mounted.
struct MountedFileSystem {
  std::string name;      ///< "vda1", "vda1/@home"
  std::string type;      ///< "xfs"
  std::string prefix;    ///< where it begins in what is mounted: a subvolume's path, with a slash behind; or empty
  std::uint64_t length;  ///< bytes
  int root = -1;
  std::string obstacle;  ///< why it is not mounted
};

/// File systems that this machine's kernel mounts, in the mount namespace of this process alone: nbdkit keeps what is
/// written in an overlay, nbdfuse makes one file of it, and a loop device that goes with its mount is a part of that.
class KernelMounts {
 public:
  /// Blocks come over the descriptor, one device after the other. Throws CaptureError.
  KernelMounts(const WritablePlaces& places, std::vector<KernelDevice> devices, int blocks_fd);

  /// Mounts what can be, and calls `one_done` after each attempt.
  [[nodiscard]] std::vector<MountedFileSystem> mount_all(const std::function<void()>& one_done);

  /// Of all devices.
  [[nodiscard]] std::uint64_t total_bytes() const noexcept { return total_; }

 private:
  void start_fuse();
  [[nodiscard]] int mount(const KernelDevice& device, std::uint64_t offset, const std::filesystem::path& point);

  std::filesystem::path directory_;
  std::vector<KernelDevice> devices_;
  std::uint64_t total_ = 0;
  RunningProgram server_;
  RunningProgram fuse_;
  UniqueFd file_;  ///< all devices, one after the other
  std::vector<UniqueFd> roots_;
};

}  // namespace stillpoint
