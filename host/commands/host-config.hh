// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/compression.hh"

#include <cstdint>
#include <filesystem>
#include <string>

namespace stillpoint {

/// /etc/stillpoint/stillpoint.conf: what the command line and the environment leave open. docs/man/stillpoint.1 lists
/// the keys.
struct HostConfig {
  std::string repository_url;                            ///< [repository] url=; empty when not set
  std::string key_file;                                  ///< [repository] key_file=; empty when not set
  std::string libvirt_uri;                               ///< [libvirt] uri=; empty when not set
  std::filesystem::path scratch_directory = "/var/tmp";  ///< [backup] scratch_directory=
  std::uint64_t limit = 0;                               ///< [backup] limit=, bytes a second; 0 when not set
  int compression = default_compression;                 ///< [backup] compression=
};

/// Reads it strictly: an unknown group or key is an error. A missing file is an empty one unless `required`.
/// Throws ConfigError that names file, group and key.
[[nodiscard]] HostConfig read_host_config(const std::filesystem::path& path, bool required);

}  // namespace stillpoint
