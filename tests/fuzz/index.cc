// SPDX-License-Identifier: LGPL-2.1-or-later
// An index object.
#include "common/errors.hh"
#include "host/repository/index-table.hh"

#include <cstdint>
#include <cstdlib>
#include <vector>

using namespace stillpoint;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const IndexTable table(memory_view({bytes.begin(), bytes.end()}), "fuzz");
    for (std::uint64_t i = 0; i < table.size(); ++i) {
      const IndexEntry entry = table.entry(i);
      if (entry.pack < table.pack_count()) static_cast<void>(table.pack(entry.pack));
      const std::uint64_t found = table.find(entry.id);
      // Entries in the order that the table promises are found.
      if (found != table.size() && table.entry(found).id != entry.id) std::abort();
    }
    static_cast<void>(table.find(ChunkId{}));
  } catch (const Corruption&) {
  } catch (const ConfigError&) {
  }
  return 0;
}
