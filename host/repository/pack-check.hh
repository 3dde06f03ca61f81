// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-id.hh"
#include "host/repository/pack.hh"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace stillpoint {

class Store;
struct RepositoryKeys;

/// What reading a pack through has shown.
struct PackCheck {
  std::uint64_t bytes = 0;          ///< read
  std::uint64_t plain = 0;          ///< bytes of the chunks that are good
  std::vector<ChunkId> good;        ///< in the order of the pack
  std::vector<ChunkId> damaged;     ///< their records were read, and are not what they say
  std::vector<ChunkId> unreadable;  ///< the store failed to read them: they may be good
  bool read = true;                 ///< false when the pack as a whole could not be: nothing is known of its records
  std::string problem;              ///< of the pack as a whole: it cannot be read, its footer is lost; else empty
};

/// Reads every record: header, CRC, and the chunk against its id. Throws nothing for what is damaged, what `progress`
/// throws (called with bytes read), ConfigError for a format that is not known.
[[nodiscard]] PackCheck check_pack(Store& store, const PackId& id, std::span<const std::byte, 16> repository,
                                   const RepositoryKeys* keys,
                                   const std::function<void(std::uint64_t bytes)>& progress);

}  // namespace stillpoint
