// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "host/capture/assembled-disk.hh"
#include "host/capture/file-system-reader.hh"
#include "host/capture/tree-wire.hh"

#include <memory>
#include <mutex>
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
/// virtual machine without network that a worker without rights runs; what it writes stays in its own overlays. As with
/// the other worker, this process only receives validated entries. Files' contents are asked for file by file:
/// content() is no disk, but has them one after the other.
class ApplianceReader : public FileSystemReader {
 public:
  /// The disks, at least one, are used by one thread at a time, and outlive the reader.
  ApplianceReader(std::vector<NamedDisk> disks, ApplianceOptions options);
  ~ApplianceReader() override;

  /// Starts the appliance. What is encrypted and not opened has an obstacle. Throws CaptureError, Interrupted.
  [[nodiscard]] std::vector<FileSystem> file_systems() override;
  void walk(const FileSystem& file_system, std::string_view path, bool recursive, TreeSink& sink) override;
  [[nodiscard]] BlockReader& content() override;

 private:
  class Worker;
  class Content;

  [[nodiscard]] wire::Message ask(wire::Writer& question);

  std::vector<NamedDisk> disks_;
  ApplianceOptions options_;
  std::mutex mutex_;                   ///< held for a question and its answer
  std::unique_ptr<Worker> appliance_;  ///< none before file_systems(), and after a failure
  std::unique_ptr<Content> content_;
};

}  // namespace stillpoint
