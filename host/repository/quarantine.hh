// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/chunk-id.hh"
#include "host/repository/pack.hh"

#include <cstddef>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace stillpoint {

class Store;

/// Records that verify found damaged, as objects of the store: nobody takes them for what they say they are, so that
/// the next backup that has such a chunk stores it again. The pack itself is left as it is.
class Quarantine {
 public:
  /// Reads what is new in the store. A damaged object of it is a warning: its chunks are found again by verify.
  void load(Store& store);

  /// For this program only. Whether it was not there.
  bool add(const PackId& pack, const ChunkId& chunk);

  [[nodiscard]] bool empty() const noexcept { return packs_.empty(); }
  void forget(const PackId& pack);
  /// Objects that could not be read.
  [[nodiscard]] const std::vector<std::string>& problems() const noexcept { return problems_; }
  [[nodiscard]] bool holds(const PackId& pack, const ChunkId& chunk) const;

 private:
  std::set<std::string> loaded_;
  std::vector<std::string> problems_;
  std::unordered_map<ChunkId, std::vector<PackId>, ChunkIdHash> packs_;
};

/// Deletes what is written down of that pack. Throws StorageError.
void clear_quarantine(Store& store, const PackId& pack);

/// Writes it down for good: one object for the pack. Throws StorageError.
void put_in_quarantine(Store& store, const PackId& pack, std::span<const ChunkId> chunks);

}  // namespace stillpoint
