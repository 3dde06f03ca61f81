// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/store.hh"

#include <cstdint>
#include <string>

namespace stillpoint {

/// What is fixed at a repository's creation: the object `config`, and a copy of it.
struct RepositoryConfig {
  std::string id;  ///< is_id
  std::uint32_t chunk_bytes = 0;
};

/// Throws ConfigError when there is a repository already.
void write_config(Store& store, const RepositoryConfig& config);
/// Throws ConfigError: not a repository, a newer format or a feature that this program does not know; Corruption.
[[nodiscard]] RepositoryConfig read_config(Store& store, bool for_writing);

[[nodiscard]] bool valid_chunk_bytes(std::uint64_t chunk_bytes) noexcept;

}  // namespace stillpoint
