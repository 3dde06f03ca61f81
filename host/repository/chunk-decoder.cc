// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/chunk-decoder.hh"

#include <cstring>

namespace stillpoint {

ChunkHasher hasher_for(const RepositoryKeys* keys) {
  return keys != nullptr ? ChunkHasher(keys->ids) : ChunkHasher();
}

ChunkDecoder::ChunkDecoder(const RepositoryKeys* keys) {
  if (keys != nullptr) opener_.emplace(keys->data);
}

const char* ChunkDecoder::decode(const RecordHeader& header, std::span<const std::byte> stored,
                                 std::span<std::byte> plain) {
  if (header.sealed != opener_.has_value()) return "it is not encrypted as this repository is";
  if (header.sealed) {
    opened_.resize(stored.size() - sealed_record_bytes);
    if (!opener_->open(header, stored, opened_)) return "its encrypted bytes are damaged";
    stored = opened_;
  }
  if (header.codec == Codec::raw)
    std::memcpy(plain.data(), stored.data(), plain.size());
  else if (ZSTD_decompressDCtx(decompressor_.get(), plain.data(), plain.size(), stored.data(), stored.size()) !=
           plain.size())
    return "its compressed bytes are damaged";
  return nullptr;
}

}  // namespace stillpoint
