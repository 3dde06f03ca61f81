// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-id.hh"
#include "host/repository/pack.hh"
#include "host/repository/store.hh"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace stillpoint {

/// One row of an index object: a chunk and where it lies.
struct IndexEntry {
  ChunkId id;
  std::uint32_t pack = 0;  ///< number in the table's list of packs; of a table that was read, it may be beyond them
  std::uint32_t offset = 0;
  std::uint32_t stored = 0;
  std::uint32_t plain = 0;
};

/// An index object: the entries of some packs, sorted by id, used in place.
class IndexTable {
 public:
  /// Checks structure and CRCs. Throws Corruption, naming `name`.
  IndexTable(std::unique_ptr<ObjectView> view, std::string_view name);

  [[nodiscard]] std::size_t pack_count() const noexcept { return pack_count_; }
  [[nodiscard]] PackId pack(std::size_t number) const noexcept;
  [[nodiscard]] std::uint64_t size() const noexcept { return entry_count_; }
  [[nodiscard]] IndexEntry entry(std::uint64_t number) const noexcept;
  /// The first of the entries with that id, or size().
  [[nodiscard]] std::uint64_t find(const ChunkId& id) const noexcept;

 private:
  std::unique_ptr<ObjectView> view_;
  std::size_t pack_count_ = 0;
  std::uint64_t entry_count_ = 0;
  unsigned fanout_bits_ = 0;
  const std::byte* packs_ = nullptr;
  const std::byte* fanout_ = nullptr;
  const std::byte* entries_ = nullptr;
};

/// The object's bytes for entries of the packs; sorts them. The entries' packs are below packs.size().
[[nodiscard]] std::vector<std::byte> encode_index(std::span<const PackId> packs, std::vector<IndexEntry>& entries);

}  // namespace stillpoint
