// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/guest/domain.hh"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// Longest XML that is looked at, bytes.
inline constexpr std::size_t max_xml_bytes = std::size_t{8} << 20;

/// A virtio-serial port of a domain.
struct DomainChannel {
  std::string name;   ///< "org.stillpoint.agent.0"
  std::string type;   ///< "unix"
  std::string alias;  ///< "channel1"; empty in a definition that does not run
};

struct UserAndGroup {
  std::uint32_t user = 0;
  std::uint32_t group = 0;
};

/// What a still point needs to know of a domain's definition.
struct DomainDefinition {
  std::vector<DomainDisk> disks;     ///< sizes unknown (0)
  std::vector<SkippedDisk> skipped;  ///< all others
  std::vector<DomainChannel> channels;
  std::optional<UserAndGroup> owner;  ///< whom QEMU runs as, where libvirt tells (DAC label)
};

/// Reads libvirt's XML of a domain; `running` decides what can be read of a disk. Throws Error when it is not such XML.
[[nodiscard]] DomainDefinition parse_domain_xml(std::string_view xml, bool running);

/// All files, devices and RBD images ("rbd:pool/image") that a domain's disks lie on, CD-ROMs and what libvirt tells of
/// backing images too. Throws Error when it is not such XML.
[[nodiscard]] std::vector<std::string> disk_paths(std::string_view xml);

/// A disk that is being copied to an image, which the domain may then be moved to.
struct DiskCopy {
  std::string target;
  std::string source;  ///< a file, or empty
  std::string image;   ///< a file
};
/// Those of a running domain. Throws Error when it is not such XML.
[[nodiscard]] std::vector<DiskCopy> disk_copies(std::string_view xml);

/// Whom QEMU runs as, by libvirt's XML of its capabilities: that of the DAC security model. Empty when there is none.
[[nodiscard]] std::optional<UserAndGroup> parse_qemu_user(std::string_view xml);

/// The disks that a checkpoint's XML says it covers ("vda"), and whether it knows the bitmap to be usable.
struct CheckpointDisk {
  std::string target;
  bool usable = false;
};
/// Reads libvirt's XML of a checkpoint, made with sizes when `with_sizes`: then a disk without one has no usable
/// bitmap.
[[nodiscard]] std::vector<CheckpointDisk> parse_checkpoint_xml(std::string_view xml, bool with_sizes);

/// The path of the NBD server's socket in libvirt's XML of a running backup job; empty when it has none.
[[nodiscard]] std::string parse_backup_socket(std::string_view xml);

}  // namespace stillpoint
