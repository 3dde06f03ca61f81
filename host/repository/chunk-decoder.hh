// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/deleter.hh"
#include "host/repository/checksum.hh"
#include "host/repository/key-ring.hh"
#include "host/repository/pack.hh"
#include "host/repository/record-seal.hh"

#include <zstd.h>

#include <optional>
#include <span>
#include <vector>

namespace stillpoint {

/// Names chunks as this repository does. `keys`: null for one that is not encrypted.
[[nodiscard]] ChunkHasher hasher_for(const RepositoryKeys* keys);

/// Gives back the chunk that a record holds: decrypted and decompressed. Its bytes are not checked against its id: who
/// hashes two at once is faster. One for each thread.
class ChunkDecoder {
 public:
  explicit ChunkDecoder(const RepositoryKeys* keys);

  /// `stored`: header.stored bytes; `plain`: header.plain bytes. Null, or what is wrong with it.
  [[nodiscard]] const char* decode(const RecordHeader& header, std::span<const std::byte> stored,
                                   std::span<std::byte> plain);

 private:
  CPtr<ZSTD_DCtx, ZSTD_freeDCtx> decompressor_{ZSTD_createDCtx()};
  std::optional<RecordOpener> opener_;
  std::vector<std::byte> opened_;
};

}  // namespace stillpoint
