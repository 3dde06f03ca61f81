// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/appliance/appliance.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/worker/block-service.hh"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace stillpoint {

/// Where the contents of the files that were walked lie, as if one after the other on one disk: that is what the
/// entries' extents say, and what is asked for.
class ApplianceContents {
 public:
  explicit ApplianceContents(Appliance& appliance) : appliance_(appliance) {}

  /// Gives it a place, `offset`. False where it is longer than all that can be.
  [[nodiscard]] bool add(const ApplianceFileSystem& file_system, const std::string& directory, std::string_view name,
                         std::uint64_t size, std::uint64_t& offset);

  /// A number for each device (subvolume) that files lie on, the same at every walk.
  [[nodiscard]] std::uint64_t device_index(std::int64_t device) {
    return devices_.emplace(device, devices_.size()).first->second;
  }

  /// Fills the buffer: zeros where there is no file, or it has become shorter. Throws CaptureError.
  void read(std::span<char> buffer, std::uint64_t offset);

 private:
  struct File {
    std::uint64_t begin;
    std::uint64_t size;
    std::uint32_t directory;  ///< in directories_
    std::string name;
  };
  struct Directory {
    const ApplianceFileSystem* file_system;
    std::string path;
  };

  Appliance& appliance_;
  std::vector<Directory> directories_;
  std::vector<File> files_;  ///< ascending
  /// By a hash of all that tells a file: one that is walked again keeps its place.
  std::unordered_map<std::uint64_t, std::size_t> known_;
  std::unordered_map<std::int64_t, std::uint64_t> devices_;
  std::uint64_t next_ = 0;
};

/// Sends what FileSystemReader::walk yields, in the same order. After each message of entries it calls `wait`, which
/// returns when the companion wants the next one. Throws NotFound, CaptureError.
void walk_in_appliance(Appliance& appliance, ApplianceContents& contents, Parent& parent,
                       const ApplianceFileSystem& file_system, std::string_view path, bool recursive,
                       const std::function<void()>& wait);

}  // namespace stillpoint
