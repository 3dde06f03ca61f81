// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "host/capture/asked-reader.hh"
#include "host/capture/file-system-reader.hh"

#include <stop_token>
#include <string>
#include <vector>

namespace stillpoint {

/// Where a file system lies that this machine's kernel is to mount.
struct KernelFileSystem {
  std::string name;             ///< "vda1", "vg0/root"
  FileSystem found;             ///< by a FileSystemReader
  BlockReader* disk = nullptr;  ///< which `found` lies on
};

/// Whether a KernelReader is worth a try: what FileSystemReader does not read, and no array or encrypted.
[[nodiscard]] bool is_for_kernel(const FileSystem& found);

/// Reads file systems of guests whose operator trusts them: this machine's kernel mounts them, read-only, nosuid,
/// nodev, noexec, in a worker with mounts, network and processes of its own, from loop devices over the blocks that
/// this process gives it. What a journal's replay writes goes to an overlay in memory. All of it ends with the worker,
/// which ends with this process. Only root can.
class KernelReader : public AskedReader {
 public:
  /// At least one; their disks outlive the reader.
  KernelReader(std::vector<KernelFileSystem> list, std::stop_token stop);

  /// Mounts all of them: what cannot be mounted has an obstacle. Subvolumes of btrfs come too, as "vda1/@home". Throws
  /// CaptureError, Interrupted.
  [[nodiscard]] std::vector<FileSystem> file_systems() override;

 private:
  std::vector<KernelFileSystem> list_;
  std::stop_token stop_;
};

}  // namespace stillpoint
