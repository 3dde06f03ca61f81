// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// Where libvirt says that a Ceph RBD disk lies, and as whom it is reached.
struct DomainRbd {
  std::string pool;
  std::string name_space;  ///< may be empty
  std::string image;
  std::string conf;      ///< a ceph.conf; may be empty
  std::string monitors;  ///< "host:port,host:port"; may be empty
  std::string user;      ///< "cinder" for client.cinder; may be empty
  std::string secret;    ///< the UUID or usage of libvirt's secret that has its key; may be empty
  bool encrypted = false;

  bool operator==(const DomainRbd&) const = default;
};

/// A disk of a domain that a still point covers: type disk, not read-only, not a CD-ROM or a floppy.
struct DomainDisk {
  std::string target;        ///< "vda"
  std::string source;        ///< file or device path, or the network source in words
  std::string format;        ///< "qcow2", "raw"
  std::string serial;        ///< as the guest sees it; may be empty
  std::uint64_t size = 0;    ///< bytes, as the guest sees it; 0 for Ceph RBD
  bool dirty_bitmap = true;  ///< whether a checkpoint is possible (qcow2)
  std::optional<DomainRbd> rbd{};
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
  /// The cephx key for it, base64, of libvirt's secret; empty when it names none. Throws ConfigError when libvirt has
  /// no such secret, or no value of it for us.
  [[nodiscard]] std::string ceph_key(const DomainRbd& rbd) const;

  /// Whether qemu-ga answers within a short limit; empty when it does, else why not.
  [[nodiscard]] std::string guest_agent_fault() const;
  /// Bounded and validated. Empty when the guest does not tell.
  [[nodiscard]] std::vector<GuestFileSystem> guest_file_systems() const;

  [[nodiscard]] const std::shared_ptr<State>& state() const noexcept { return state_; }

 private:
  std::shared_ptr<State> state_;
};

}  // namespace stillpoint
