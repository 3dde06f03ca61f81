// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/clock.hh"
#include "host/repository/drill-record.hh"
#include "host/restore/disk-server.hh"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>

namespace stillpoint {

/// Reads all data of a disk out of the repository, which checks every chunk against its id. Returns the bytes. Throws
/// Corruption, Interrupted.
std::uint64_t read_whole_disk(BlockReader& disk, CaptureProgress& progress, const std::stop_token& stop);

/// A disk of a still point as a file, for programs that know nothing else: served by NBD, mounted by nbdfuse. What is
/// written to it is gone with it.
class DiskFile {
 public:
  /// `directory`: of its own for this disk; made and removed again. Throws ConfigError where a program is missing,
  /// Unreachable.
  DiskFile(const ServedDisk& disk, std::filesystem::path directory);
  DiskFile(const DiskFile&) = delete;
  DiskFile& operator=(const DiskFile&) = delete;
  ~DiskFile();

  [[nodiscard]] std::filesystem::path path() const { return directory_ / "mount" / "disk"; }

 private:
  void mount();

  std::filesystem::path directory_;
  std::optional<DiskServer> server_;
  std::optional<Intake> messages_;
  RunningProgram fuse_;
};

/// What e2fsck says of an ext file system at that offset (bytes) of the file, whose journal it replays first. It runs
/// without privileges or network: the file system is a guest's.
[[nodiscard]] DrillStep check_ext(const std::filesystem::path& file, std::uint64_t offset, const std::string& name,
                                  const Deadline& deadline, const std::stop_token& stop);

}  // namespace stillpoint
