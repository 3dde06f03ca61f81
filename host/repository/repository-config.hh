// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/store.hh"

#include <cstdint>
#include <string>
#include <vector>

namespace stillpoint {

/// What is fixed at a repository's creation: the object `config`, and a copy of it.
struct RepositoryConfig {
  std::string id;  ///< is_id
  std::uint32_t chunk_bytes = 0;
  bool encrypted = false;
};

/// Throws ConfigError when there is a repository already.
void write_config(Store& store, const RepositoryConfig& config);
/// Throws ConfigError: not a repository, a newer format or a feature that this program does not know; Corruption.
[[nodiscard]] RepositoryConfig read_config(Store& store, bool for_writing);

/// What is wrong with the configuration or its copy, while the other serves.
[[nodiscard]] std::vector<std::string> config_problems(Store& store);

[[nodiscard]] bool valid_chunk_bytes(std::uint64_t chunk_bytes) noexcept;

}  // namespace stillpoint
