// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/index-table.hh"

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace stillpoint {

/// Which pack holds which chunk. The index objects of the store are a cache: what they lack (missing, damaged, packs
/// that no one published yet) comes from the packs themselves. May be used by several threads.
class Index {
 public:
  struct Location {
    PackId pack;
    std::uint32_t offset = 0;  ///< of the record's header
    std::uint32_t stored = 0;
    std::uint32_t plain = 0;
    bool sealed = true;  ///< false while this program still writes the pack
  };

  Index(Store& store, std::span<const std::byte, 16> repository, bool writable);

  /// True when nobody has the chunk: the caller stores it and calls add(). False when it is there or on its way.
  [[nodiscard]] bool claim(const ChunkId& id);
  /// `pack`: a number from begin_pack().
  void add(const ChunkId& id, std::uint32_t pack, std::uint32_t offset, std::uint32_t stored, std::uint32_t plain);

  [[nodiscard]] std::uint32_t begin_pack(const PackId& id);
  /// The pack is durable. Publishes when much has come together.
  void seal_pack(std::uint32_t pack);
  /// Writes what is sealed and not yet in an index object, merging small objects.
  void publish();

  /// Every place where the chunk is said to be; looks for new packs before it says that there is none.
  [[nodiscard]] std::vector<Location> find(const ChunkId& id);

  /// Chunks known; one that several tables list is counted several times.
  [[nodiscard]] std::uint64_t size();

 private:
  static constexpr std::uint32_t absent = UINT32_MAX;

  struct Mounted {
    std::string name;  ///< empty for one in memory only
    IndexTable table;
    std::vector<std::uint32_t> packs;  ///< our number of the table's packs, or `absent`
  };
  struct Fresh {
    std::uint32_t pack = absent;  ///< absent: claimed
    std::uint32_t offset = 0;
    std::uint32_t stored = 0;
    std::uint32_t plain = 0;
  };
  struct Pack {
    PackId id;
    bool sealed = true;
  };

  void load();
  void mount_objects();
  void read_uncovered(const std::set<PackId>& present);
  void mount(std::string name, std::unique_ptr<ObjectView> view);
  bool known(const ChunkId& id) const;
  void locate(const ChunkId& id, std::vector<Location>& found) const;
  std::uint32_t number_of(const PackId& id);
  void publish_locked();
  std::vector<std::string> merge_small(std::vector<IndexEntry>& entries, std::vector<PackId>& packs);

  Store& store_;
  std::array<std::byte, 16> repository_;
  bool writable_;
  std::mutex mutex_;
  std::vector<Pack> packs_;
  std::map<PackId, std::uint32_t> numbers_;
  std::set<PackId> covered_;             ///< by a mounted table, by fresh_, or being written
  std::set<std::uint32_t> unpublished_;  ///< sealed packs that no table lists
  std::set<std::string> bad_objects_;
  std::vector<Mounted> tables_;
  std::unordered_map<ChunkId, Fresh, ChunkIdHash> fresh_;
};

}  // namespace stillpoint
