// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "host/capture/file-system-reader.hh"
#include "host/guest/domain.hh"
#include "host/repository/manifest.hh"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// "vda1" for partition 1 of vda, "vda" for a disk without partitions.
[[nodiscard]] std::string file_system_name(std::string_view target, std::uint32_t partition);

/// The same of a file system of that disk; the name of the volume that it lies on instead, where it lies on one.
[[nodiscard]] std::string file_system_name(std::string_view target, const FileSystem& file_system);

/// The partition in a guest's device name: 1 in "vda1" and "nvme0n1p1", 0 in "vda" and "nvme0n1"; nothing for "dm-0".
[[nodiscard]] std::optional<std::uint32_t> partition_of(const GuestFileSystem& file_system);

/// Where the guest has mounted that file system; empty when it did not say. The guest's own device names may differ
/// from libvirt's targets
/// ("sda1" on a disk that libvirt calls sdb): the disk is taken from what libvirt has resolved, only the partition from
/// the name.
[[nodiscard]] std::string mount_point_of(const std::vector<GuestFileSystem>& mounted, std::string_view target,
                                         std::uint32_t partition);

/// The directory of one file system's tree, as one name: "@root", "var-lib-postgresql", "@vda1" when the mount point is
/// unknown. No two mount points share a name, and none leaves its parent directory.
[[nodiscard]] std::string tree_name(std::string_view mount_point, std::string_view file_system);

/// Deletes the trees of a still point that is no longer listed. What cannot be deleted is a warning.
void remove_trees(const std::filesystem::path& repository, const Manifest& manifest);

/// Deletes what backups that died have left: trees that are unfinished, or of none of the still points `names`. Those
/// that changed after `before` may be somebody's who still works, and stay. Returns how many it deleted; what cannot be
/// deleted is a warning. Throws Interrupted.
std::size_t sweep_trees(const std::filesystem::path& repository, const std::vector<std::string>& names, WallTime before,
                        const std::stop_token& stop);

/// The trees of one still point: written in a hidden directory, renamed into place when all are complete, removed when
/// that never happens.
///
///     trees/.partial-<id>/@root            while it is written
///     trees/web1/2026-11-22T08:20:11Z/@root    after publish()
class TreeDirectory {
 public:
  TreeDirectory(std::filesystem::path repository, std::string id);
  TreeDirectory(const TreeDirectory&) = delete;
  TreeDirectory& operator=(const TreeDirectory&) = delete;
  /// Removes what was not kept.
  ~TreeDirectory();

  /// Where to write the tree of that name; its parent exists.
  [[nodiscard]] std::filesystem::path staging(std::string_view tree);

  /// Durably moves everything to its place for a still point's name and fills in the records' paths; again for another
  /// name. Throws StorageError.
  void publish(std::string_view still_point, std::vector<TreeRecord>& trees);

  /// Whether others' trees have that still point's place.
  [[nodiscard]] bool finds(std::string_view still_point) const;

  /// The manifest is committed: the trees stay.
  void keep() noexcept { keep_ = true; }

 private:
  std::filesystem::path repository_;
  std::filesystem::path staging_;
  std::filesystem::path published_;
  bool keep_ = false;
};

}  // namespace stillpoint
