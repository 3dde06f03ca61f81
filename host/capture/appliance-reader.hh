// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "host/capture/asked-reader.hh"
#include "host/capture/file-system-reader.hh"

#include <stop_token>
#include <string>
#include <vector>

namespace stillpoint {

/// A guest's disk with libvirt's name for it.
struct NamedDisk {
  std::string name;
  BlockReader* disk;
};

struct ApplianceOptions {
  std::vector<std::string> keys;  ///< passphrases, tried on everything that is encrypted
  std::stop_token stop;           ///< an answer can take minutes
};

/// Reads what FileSystemReader does not: xfs, btrfs and its subvolumes, what is encrypted, RAID, every kind of logical
/// volume, and journals that must be replayed first. All disks of the guest go to an appliance of libguestfs, a small
/// virtual machine without network that a worker without rights runs; what it writes stays in its own overlays.
class ApplianceReader : public AskedReader {
 public:
  /// The disks, at least one, are used by one thread at a time, and outlive the reader.
  ApplianceReader(std::vector<NamedDisk> disks, ApplianceOptions options);

  /// Starts the appliance. What is encrypted and not opened has an obstacle. Throws CaptureError, Interrupted.
  [[nodiscard]] std::vector<FileSystem> file_systems() override;

 private:
  std::vector<NamedDisk> disks_;
  ApplianceOptions options_;
};

}  // namespace stillpoint
