// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/tree-entry.hh"
#include "host/capture/appliance-reader.hh"
#include "host/capture/file-system-reader.hh"
#include "host/commands/mount-table.hh"
#include "host/repository/manifest.hh"
#include "host/repository/repository.hh"

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// The files of a still point, read out of its disks: every chunk is checked against its id, and no tree is needed.
class GuestFiles {
 public:
  /// Both outlive it.
  GuestFiles(Repository& repository, const Manifest& manifest) : repository_(repository), manifest_(manifest) {}

  /// How to read what needs an appliance: it is started when it is needed. `by_kernel`: this machine's kernel mounts
  /// what it can instead, for the operator trusts the guest.
  void use(ApplianceOptions options, bool by_kernel = false) {
    options_ = std::move(options);
    by_kernel_ = by_kernel;
  }

  struct Named {
    std::string name;         ///< "vda1"
    std::string mount_point;  ///< in the guest; empty when unknown
    FileSystem file_system;

    [[nodiscard]] bool readable() const { return file_system.readable() || file_system.is_for_appliance(); }
  };
  /// Of all disks; an appliance is started for what only that can find, where `may_start`. Throws CaptureError,
  /// Corruption.
  [[nodiscard]] std::vector<Named> file_systems(bool may_start = true);

  /// Where the guest has them: as it said itself, and what else its /etc/fstab says. Known once; an appliance is
  /// started for that table only if `may_start`.
  [[nodiscard]] const std::vector<Mount>& mounts(bool may_start);

  /// A file, where it really is.
  struct Place {
    std::string file_system;  ///< its name
    std::string path;         ///< in the file system, without leading slash
    TreeEntry entry;
  };
  /// Finds `path`: in the file system of that name, or by the guest's mount points when it is empty. Symbolic links on
  /// the way are followed as the guest would, never outside the still point; the last one only if `follow_last`.
  /// Throws NotFound, CaptureError, Corruption.
  [[nodiscard]] Place find(const std::string& file_system, std::string_view path, bool follow_last);

  /// FileSystemReader::walk of what was found.
  void walk(const Place& place, bool recursive, TreeSink& sink);
  /// Where the contents of its file system lie.
  [[nodiscard]] BlockReader& disk(const Place& place);
  /// What the walks so far left out.
  [[nodiscard]] std::vector<std::string> warnings() const;

 private:
  /// A disk, or a volume that lies on some.
  struct Disk {
    std::string target;  ///< of the disk, or of the first of them
    std::unique_ptr<BlockReader> reader;
    std::unique_ptr<FileSystemReader> files;
    std::vector<FileSystem> found;
  };
  struct Where {
    Disk* disk;
    const FileSystem* file_system;
  };

  Disk& open(const DiskRecord& record);
  std::vector<Disk>& volumes();
  Disk& appliance();
  Disk* kernel();
  [[nodiscard]] std::optional<Where> mounted(const std::string& file_system);
  [[nodiscard]] bool needs_appliance(bool to_list);
  [[nodiscard]] static std::optional<Where> find_in(Disk& disk, const std::string& file_system);
  [[nodiscard]] bool replays(const Where& at, const std::string& file_system);
  Where where(const std::string& file_system);
  [[nodiscard]] std::string only_file_system();
  [[nodiscard]] std::pair<std::string, std::string> by_mount_point(const std::string& path);
  void add_table(bool may_start);
  std::optional<Place> look(const std::string& file_system, const std::string& path);

  Repository& repository_;
  const Manifest& manifest_;
  std::map<std::string, std::unique_ptr<Disk>> disks_;  ///< by target, opened when needed
  std::optional<std::vector<Disk>> volumes_;            ///< logical ones, looked for when needed
  std::unique_ptr<Disk> appliance_;                     ///< all disks in an appliance, started when needed
  ApplianceOptions options_;
  bool by_kernel_ = false;
  std::unique_ptr<Disk> kernel_;    ///< what this machine's kernel has mounted, when needed
  std::set<std::string> replayed_;  ///< file systems whose journals were not clean
  std::optional<std::vector<Mount>> mounts_;
};

}  // namespace stillpoint
