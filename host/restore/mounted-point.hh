// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/assembled-disk.hh"
#include "host/repository/crew.hh"
#include "host/repository/manifest.hh"
#include "host/repository/repository.hh"
#include "host/repository/shared-cache.hh"
#include "host/restore/guest-disk.hh"
#include "host/restore/guest-tree.hh"
#include "host/restore/mount-node.hh"

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// Names what a partition of a disk holds: "vda1".
using NameFileSystem = std::function<std::string(std::string_view target, std::uint32_t partition)>;

/// What all still points of a mount share, and what of it is open. Bounded, however much is looked at.
struct MountShared {
  MountShared(Repository& its_repository, NameFileSystem its_names, std::stop_token its_stop)
      : repository(its_repository), name_file_system(std::move(its_names)), stop(std::move(its_stop)) {}

  Repository& repository;
  NameFileSystem name_file_system;
  std::stop_token stop;
  Crew crew;
  GuestTreeCache trees;
  SharedCache<std::uint64_t, GuestDisk> disks{8};
  SharedCache<std::uint64_t, BlockReader> dumps{4};
};

/// A still point as a directory:
///
///     disks/vda.img      its disks, raw
///     dumps/.../NAME     its dumps
///     state/nvram.fd     its firmware's variables, where it has some
///     state/tpm/NAME     its emulated TPM's state, where it has one
///     files/             the guest's files, its file systems mounted in each other
///     file-systems/vda1/ each of them for itself
///     file-systems/vg0/root/
///     still-point.json   what `show --json` says
class MountedPoint {
 public:
  /// `shared` outlives it, and it outlives its nodes.
  MountedPoint(MountShared& shared, Manifest manifest);
  MountedPoint(const MountedPoint&) = delete;
  MountedPoint& operator=(const MountedPoint&) = delete;
  ~MountedPoint();

  [[nodiscard]] MountNode::Shared root() const { return root_; }

 private:
  struct Found;

  void add_disks(OwnDirectory& directory);
  void add_dumps(OwnDirectory& directory);
  void add_state();
  [[nodiscard]] std::shared_ptr<BlockFile> stream_file(std::string_view what, const StreamMap& map);
  [[nodiscard]] std::shared_ptr<GuestDisk> open_disk(std::size_t number);
  [[nodiscard]] std::shared_ptr<GuestDisk> open_volume(std::size_t number);
  [[nodiscard]] Found& found();
  [[nodiscard]] std::unique_ptr<Found> look_for_file_systems();
  void look_on_disk(Found& found, std::size_t number);
  void look_for_volumes(Found& found);
  void show(Found& found, const std::string& name, const std::string& shown, const BrowsedFileSystem::OpenDisk& open,
            std::size_t place);
  void warn(const std::string& what, const std::exception& error) const;

  MountShared& shared_;
  Manifest manifest_;
  std::int64_t instant_ns_;
  std::vector<std::uint64_t> disk_keys_;  ///< in the shared cache
  /// Of each disk, opened while it is read: what volumes lie on.
  std::vector<std::unique_ptr<BlockReader>> blocks_;
  std::vector<std::unique_ptr<BlockReader>> structures_;
  struct MountedVolume {
    std::uint64_t key;            ///< in the shared cache
    std::vector<DiskPart> parts;  ///< of structures_
  };
  std::vector<MountedVolume> volumes_;  ///< those that can be read; complete with found_
  std::shared_ptr<OwnDirectory> root_;
  std::mutex mutex_;
  std::unique_ptr<Found> found_;  ///< when its file systems were first asked for
};

/// All still points of a repository: a directory for each domain, in it one for each still point, and "latest". What is
/// added and deleted comes and goes here too.
[[nodiscard]] MountNode::Shared mount_all(MountShared& shared);

}  // namespace stillpoint
