// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// An image of a Ceph cluster, as libvirt is told of it.
struct NewRbdDisk {
  std::string name;    ///< "pool/image", "pool/namespace/image"
  std::string conf;    ///< a ceph.conf; empty: the monitors that the disk had, where it was of a cluster
  std::string user;    ///< "cinder" for client.cinder; empty: the one that the disk had, or admin
  std::string secret;  ///< UUID of libvirt's secret with the user's key; empty: the one that the disk had
};

/// The image that takes the place of one of a still point's disks.
struct NewDisk {
  std::string target;
  std::filesystem::path path;
  std::string format;               ///< "qcow2", "raw"
  bool is_device = false;           ///< a block device that is not there yet; one that is there is seen
  std::optional<NewRbdDisk> rbd{};  ///< it is no file then
};

/// A domain that is made of a still point.
struct NewDomain {
  std::string name;  ///< empty for the first one itself: with its name, UUID and MAC addresses
  std::vector<NewDisk> disks;
  bool network = false;           ///< the cables are plugged in
  std::string uuid{};             ///< of a new one; empty: libvirt chooses
  std::filesystem::path nvram{};  ///< its firmware's variables; empty: of a new one, made of the firmware's template
  std::filesystem::path tpm{};    ///< its emulated TPM's state, where the definition names a directory
};

struct NewDefinition {
  std::string xml;
  std::vector<std::string> left_out;  ///< what of the old definition it does not have, in words
};

/// `xml`: libvirt's of the domain at the still point. The new one has another name, UUID and MAC addresses, so that
/// both may run at once, and nothing of the first that only one can have: its devices of the host, its files and
/// sockets. Throws Error when it is not such XML, UsageError for an overlay on a disk that stays encrypted.
[[nodiscard]] NewDefinition new_domain_xml(std::string_view xml, const NewDomain& domain);

}  // namespace stillpoint
