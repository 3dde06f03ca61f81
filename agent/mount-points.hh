// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <sys/types.h>

namespace stillpoint {

/// The file systems that qemu-ga freezes, held open so that they can be thawed without looking up a path. Allocates
/// nothing outside itself: it is large, make it static.
class MountPoints {
 public:
  MountPoints() = default;
  MountPoints(const MountPoints&) = delete;
  MountPoints& operator=(const MountPoints&) = delete;
  ~MountPoints() { close(); }

  /// Opens every one on a block device, once however often it is mounted. Those of networks and of other programs are
  /// left alone: opening them may hang.
  void open() noexcept;
  /// Has everything dirty written. Takes what time the disks take.
  void sync() noexcept;
  /// Thaws, however often each was frozen, in the order of mounting: thawing writes, and an image's file system waits
  /// for ever while the one that the image lies on is frozen.
  void thaw() noexcept;
  void close() noexcept;

 private:
  static constexpr int most = 1024;
  int fds_[most] = {};
  dev_t devices_[most] = {};
  int count_ = 0;
};

}  // namespace stillpoint
