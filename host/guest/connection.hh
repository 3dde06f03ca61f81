// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/guest/domain-xml.hh"
#include "host/guest/domain.hh"

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

class Session;

/// A connection to libvirt that notices when libvirtd dies or hangs: every call ends.
class Connection {
 public:
  /// An empty URI is libvirt's default (LIBVIRT_DEFAULT_URI, else qemu:///system). Throws Unreachable.
  explicit Connection(const std::string& uri);

  /// By name or UUID. Throws NotFound (naming what is there), Unreachable.
  [[nodiscard]] Domain domain(const std::string& name);
  [[nodiscard]] bool has(const std::string& name);
  /// Whom QEMU runs as here by default; empty where libvirt does not tell, and files are left as they are.
  [[nodiscard]] std::optional<UserAndGroup> qemu_user();
  /// Names of the domains, but the one of that UUID, that have this file, device or RBD image ("rbd:pool/image") as a
  /// disk, or as what a disk lies on. Throws Unreachable.
  [[nodiscard]] std::vector<std::string> users_of(const std::filesystem::path& path, const std::string& but_uuid);
  /// Where libvirt keeps the state of emulated TPMs, a directory for each domain's UUID: the machine's or the user's.
  [[nodiscard]] std::filesystem::path tpm_root();
  /// A new domain of that XML. Throws CaptureError with libvirt's reason, Unreachable.
  [[nodiscard]] Domain define(const std::string& xml);

 private:
  std::shared_ptr<Session> session_;
};

}  // namespace stillpoint
