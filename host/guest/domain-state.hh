// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// Where a domain's state lies on this hypervisor, beside its disks.
struct StatePlaces {
  std::filesystem::path nvram;        ///< the file of its firmware's variables; empty when it has none
  std::filesystem::path tpm;          ///< the directory of its emulated TPM's files; empty when it has none
  std::vector<std::string> left_out;  ///< what there is and cannot be read, in words
};

/// Reads libvirt's XML of a domain. `tpm_root`: Connection::tpm_root(). Throws Error when it is not such XML.
[[nodiscard]] StatePlaces state_places(std::string_view xml, const std::filesystem::path& tpm_root, bool running);

/// Where libvirt keeps the state of the emulated TPM of a domain with this UUID, which is defined as `xml` says. Empty
/// when it has none, or the definition names a place of its own.
[[nodiscard]] std::filesystem::path tpm_directory(std::string_view xml, const std::filesystem::path& tpm_root,
                                                  const std::string& uuid);

/// A random UUID, as libvirt writes them.
[[nodiscard]] std::string new_uuid();

/// Whether it is one: such text may be a file's name.
[[nodiscard]] bool is_uuid(std::string_view text) noexcept;

}  // namespace stillpoint
