// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/deleter.hh"
#include "common/program.hh"
#include "host/capture/appliance/confinement.hh"

#include <guestfs.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A disk of the guest.
struct ApplianceDisk {
  std::string name;        ///< "vda"
  std::uint64_t size = 0;  ///< bytes
};

/// A file system that the appliance's kernel can mount.
struct ApplianceFileSystem {
  std::string name;    ///< "vda1", "vg0/root", "md0", "vda1/@home"
  std::string device;  ///< the appliance's
  std::string prefix;  ///< where it begins in what is mounted: a subvolume's path, with a slash behind; or empty
  std::string type;
  std::string uuid;
  std::string label;
  std::uint64_t length = 0;  ///< bytes
  std::string obstacle;      ///< why it cannot be mounted
};

/// libguestfs' appliance with the guest's disks: a small virtual machine whose kernel, and nobody else's, meets the
/// guest's file systems. What it writes (journals) goes to overlays of its own.
class Appliance {
 public:
  /// Starts it. Blocks come over the descriptor. Throws CaptureError.
  Appliance(const WritablePlaces& places, const std::vector<ApplianceDisk>& disks, int blocks_fd,
            const std::function<void(std::string_view)>& warn);

  /// Opens what the keys open, and finds everything else.
  [[nodiscard]] std::vector<ApplianceFileSystem> find(const std::vector<std::string>& keys);

  /// Mounts it, read-only, where nothing else is. Throws CaptureError.
  void mount(const ApplianceFileSystem& file_system);

  /// Of all disks.
  [[nodiscard]] std::uint64_t total_bytes() const noexcept;

  [[nodiscard]] guestfs_h* get() const noexcept { return guestfs_.get(); }
  /// Throws CaptureError with libguestfs' last message.
  [[noreturn]] void fail(std::string_view what) const;

 private:
  void open_encrypted(const std::vector<std::string>& keys);
  void add(std::vector<ApplianceFileSystem>& list, const std::string& device, std::string name);
  void add_subvolumes(std::vector<ApplianceFileSystem>& list, const ApplianceFileSystem& whole);
  [[nodiscard]] std::vector<std::string> list(char** (*call)(guestfs_h*)) const;
  [[nodiscard]] std::string text(char* (*call)(guestfs_h*, const char*), const std::string& device) const;
  [[nodiscard]] std::string disk_of(const std::string& device) const;
  [[nodiscard]] std::string partition_name(const std::string& partition) const;
  [[nodiscard]] std::string array_name(const std::string& device) const;

  WritablePlaces places_;
  std::vector<ApplianceDisk> disks_;
  RunningProgram server_;
  CPtr<guestfs_h, guestfs_close> guestfs_;
  struct Opened {
    std::string mapped;  ///< "/dev/mapper/crypt0"
    std::string name;    ///< of the encrypted device
  };
  std::vector<Opened> opened_;
  std::string mounted_;
};

}  // namespace stillpoint
