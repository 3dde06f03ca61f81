// SPDX-License-Identifier: LGPL-2.1-or-later
// A pack, its footer or what a scan finds, and every record in it: of a repository with or without a key.
#include "host/repository/pack.hh"

#include "common/errors.hh"
#include "host/repository/chunk-decoder.hh"
#include "tests/fuzz/one-object-store.hh"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <vector>

using namespace stillpoint;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::OneObjectStore store(std::as_bytes(std::span(data, size)));
  static const std::array<std::byte, 16> repository{};
  static const PackId id{};
  static ChunkDecoder decoder(nullptr);
  static std::vector<std::byte> plain(max_chunk_bytes);
  try {
    const PackContents contents = read_pack_entries(store, id, repository);
    const auto pack = store.reader("pack");
    for (const PackEntry& entry : contents.entries) {
      if (entry.plain > max_chunk_bytes || entry.offset + record_header_bytes + entry.stored > size) std::abort();
      std::array<std::byte, record_header_bytes> bytes{};
      pack->read(entry.offset, bytes);
      const std::optional<RecordHeader> header = decode_record_header(bytes);
      if (!header || entry.offset + record_header_bytes + header->stored > size) continue;
      std::vector<std::byte> stored(header->stored);
      pack->read(entry.offset + record_header_bytes, stored);
      static_cast<void>(decoder.decode(*header, stored, std::span(plain).first(header->plain)));
    }
  } catch (const Corruption&) {
  } catch (const ConfigError&) {
  }
  return 0;
}
