// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/tree-entry.hh"
#include "host/capture/file-system-reader.hh"

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// Where a guest has something mounted.
struct Mount {
  std::string mount_point;  ///< absolute, without "." and ".."
  std::string file_system;  ///< its name; empty where it lies on none of the guest's disks, or is bound
  std::string bound;        ///< the directory of the guest that is bound there; empty when none is
};

/// A file system that may be the guest's root.
struct MountCandidate {
  std::string name;
  const FileSystem* file_system;
  /// A file's content; nothing when there is none, it is no file, or it is longer than a mount table.
  std::function<std::optional<std::string>(std::string_view path)> read;
};

/// A file for MountCandidate::read. Throws CaptureError, Corruption.
[[nodiscard]] std::optional<std::string> read_mount_table(FileSystemReader& files, const FileSystem& file_system,
                                                          std::string_view path);

/// What /etc/fstab says, of the first candidate whose own table mounts it as "/"; empty when none does. It is what the
/// guest had meant to mount: for what is not known from the guest's report. What is not mounted by itself (noauto) is
/// left out.
[[nodiscard]] std::vector<Mount> find_mounts(const std::vector<MountCandidate>& candidates);

}  // namespace stillpoint
