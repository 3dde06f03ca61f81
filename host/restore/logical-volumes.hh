// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace stillpoint {

/// Logical volumes that are made for the disks of a still point. Those that were made are removed again, unless keep()
/// was called.
class NewVolumes {
 public:
  /// Makes none yet. `thin_pool`: its name in that volume group; empty for volumes that have all their space. Throws
  /// ConfigError without LVM's programs, UsageError when there is no such group or pool, or their names are none.
  NewVolumes(std::string group, std::string thin_pool);
  NewVolumes(const NewVolumes&) = delete;
  NewVolumes& operator=(const NewVolumes&) = delete;
  ~NewVolumes();

  /// Throws UsageError when there can be no volume of that name, or there is one already.
  void check_name(const std::string& name) const;
  /// Where that volume is, once it is made.
  [[nodiscard]] std::filesystem::path path_of(const std::string& name) const;
  /// Makes one of at least `bytes`. Throws StorageError with LVM's reason.
  void make(const std::string& name, std::uint64_t bytes);
  /// Whether what was never written of one reads as zeros: so it is in a thin pool that zeroes its blocks.
  [[nodiscard]] bool read_as_zeros() const noexcept { return zeroes_; }
  /// They stay.
  void keep();

 private:
  std::string group_;
  std::string pool_;
  std::string tag_;  ///< on what was made and is not kept: nothing else is ever removed
  bool zeroes_ = false;
  bool made_ = false;
};

/// What the volume of a domain's disk is called.
[[nodiscard]] inline std::string volume_name(const std::string& domain, const std::string& target) {
  return domain + "-" + target;
}

}  // namespace stillpoint
