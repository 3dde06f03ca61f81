// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"
#include "host/capture/kernel/kernel-mounts.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/worker/block-service.hh"

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace stillpoint {

/// Where the contents of the files that were walked lie, as if one after the other on one disk: that is what the
/// entries' extents say, and what is asked for. All files of the last walk are kept, a hundred bytes each: any of them
/// may still be asked for. Their number has no bound but the worker's memory (AskedService::limit_memory(), 2 GiB, some
/// 20 million files): a walk that needs more fails, and says so.
class KernelContents {
 public:
  /// Forgets all files: what an earlier walk said cannot be read any more.
  void clear();

  /// Gives a file of that directory (from the mounted root, with slashes around) a place, `offset`. False where it is
  /// longer than all that can be.
  [[nodiscard]] bool add(int root, const std::string& directory, const std::string& name, const struct stat& status,
                         std::uint64_t& offset);

  /// A number for each device (subvolume) that files lie on, the same at every walk.
  [[nodiscard]] std::uint64_t device_index(dev_t device) {
    return devices_.emplace(device, devices_.size()).first->second;
  }

  /// Fills the buffer: zeros where there is no file, or it has become shorter. Throws CaptureError, also where a file
  /// is forgotten.
  void read(std::span<char> buffer, std::uint64_t offset);

 private:
  struct File {
    std::uint64_t begin;
    std::uint64_t size;
    std::size_t directory;  ///< in directories_
    std::string name;
  };
  struct Directory {
    int root;
    std::string path;
  };

  std::deque<Directory> directories_;
  std::deque<File> files_;  ///< ascending; there may be millions, which are not moved to grow
  /// Names of one inode have the same place. Only those that may have several.
  std::map<std::pair<dev_t, ino_t>, std::uint64_t> known_;
  std::map<dev_t, std::uint64_t> devices_;
  std::uint64_t first_ = 0;  ///< what lies before is forgotten
  std::uint64_t next_ = 0;
  const File* open_file_ = nullptr;  ///< of what was read last
  UniqueFd open_;
};

/// Sends what FileSystemReader::walk yields, in the same order. After each message of entries it calls `wait`, which
/// returns when the companion wants the next one. No path leads out of what is mounted. Throws NotFound, CaptureError.
void walk_mounted(KernelMounts& mounts, KernelContents& contents, Parent& parent, const MountedFileSystem& file_system,
                  std::string_view path, bool recursive, const std::function<void()>& wait);

}  // namespace stillpoint
