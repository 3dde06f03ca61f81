// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace stillpoint {

/// A disk of a domain that a still point covers: type disk, not read-only, not a CD-ROM or a floppy.
struct DomainDisk {
  std::string target;        ///< "vda"
  std::string source;        ///< file or device path, or the network source in words
  std::string format;        ///< "qcow2", "raw"
  std::string serial;        ///< as the guest sees it; may be empty
  std::uint64_t size = 0;    ///< bytes, as the guest sees it
  bool dirty_bitmap = true;  ///< whether a checkpoint is possible (qcow2)
};

/// A disk of the domain that a still point leaves out, and why.
struct SkippedDisk {
  std::string target;
  std::string reason;
};

/// A mounted file system, as the guest tells. Untrusted.
struct GuestFileSystem {
  std::string mount_point;
  std::string device;                ///< "vda1"
  std::string type;                  ///< "ext4"
  std::vector<std::string> targets;  ///< the disks below it ("vda")
};

/// One libvirt domain. Copies share the connection.
class Domain {
 public:
  struct State;
  explicit Domain(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}

  [[nodiscard]] const std::string& name() const;
  [[nodiscard]] const std::string& uuid() const;
  [[nodiscard]] bool running() const;
  /// Whether its memory was saved, so that it goes on from there when it is started.
  [[nodiscard]] bool has_saved_memory() const;
  /// The live definition when it runs, with secrets left out.
  [[nodiscard]] std::string xml() const;
  [[nodiscard]] std::vector<DomainDisk> disks() const;
  [[nodiscard]] std::vector<SkippedDisk> skipped_disks() const;

  /// Whether qemu-ga answers within a short limit; empty when it does, else why not.
  [[nodiscard]] std::string guest_agent_fault() const;
  /// Bounded and validated. Empty when the guest does not tell.
  [[nodiscard]] std::vector<GuestFileSystem> guest_file_systems() const;

  [[nodiscard]] const std::shared_ptr<State>& state() const noexcept { return state_; }

 private:
  std::shared_ptr<State> state_;
};

}  // namespace stillpoint
