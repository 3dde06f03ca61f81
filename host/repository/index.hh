// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/index-table.hh"
#include "host/repository/quarantine.hh"

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
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
    bool sealed = true;   ///< false while this program still writes the pack
    bool doomed = false;  ///< the pack is about to be deleted
  };

  enum class Source {
    objects,  ///< the cache, and the packs for what it lacks
    packs,    ///< the packs alone
  };

  Index(Store& store, std::span<const std::byte, 16> repository, bool writable, Source source = Source::objects);

  /// True when nobody has the chunk: the caller stores it and calls add(). False when it is there or on its way.
  [[nodiscard]] bool claim(const ChunkId& id);
  /// Whether claim() would say false.
  [[nodiscard]] bool holds(const ChunkId& id);
  /// `pack`: a number from begin_pack().
  void add(const ChunkId& id, std::uint32_t pack, std::uint32_t offset, std::uint32_t stored, std::uint32_t plain);

  [[nodiscard]] std::uint32_t begin_pack(const PackId& id);
  /// The pack is durable. Publishes when much has come together.
  void seal_pack(std::uint32_t pack);
  /// What becomes of a table that cannot be written.
  enum class Unwritten {
    fails,  ///< StorageError
    stays,  ///< in memory: whoever comes next reads its packs
  };
  /// Writes what is sealed and not yet in an index object, merging small objects.
  void publish(Unwritten unwritten = Unwritten::fails);

  /// Every place where the chunk is said to be, quarantine left out; looks for new packs before it says that there is
  /// none.
  [[nodiscard]] std::vector<Location> find(const ChunkId& id);
  /// Plain bytes of the chunk at the first of these places, without looking again; nothing when there is none.
  [[nodiscard]] std::optional<std::uint32_t> length_of(const ChunkId& id);
  /// A copy in a pack that is durable and not doomed, without looking again; nothing when there is none.
  [[nodiscard]] std::optional<Location> lasting_copy(const ChunkId& id);
  /// Every chunk that is said to be in that pack. Reads the whole index.
  [[nodiscard]] std::vector<ChunkId> chunks_of(const PackId& pack);
  /// One entry of a published table: names a record among millions in a few bytes.
  struct Place {
    std::size_t table = 0;
    std::uint64_t entry = 0;
  };
  /// The record that a reader would take; one in a doomed pack only when there is no other. Publish first.
  [[nodiscard]] std::optional<Place> place_of(const ChunkId& id);
  /// Entries of each published table. The numbers hold until the next publish() or find().
  [[nodiscard]] std::vector<std::uint64_t> table_sizes();
  /// Nothing when its pack is gone.
  [[nodiscard]] std::optional<std::pair<ChunkId, Location>> at(const Place& place);

  /// From now on writers take what these packs hold for absent.
  void doom(std::span<const PackId> packs);
  [[nodiscard]] std::vector<PackId> doomed();
  /// Looks for packs anew, and writes tables without those that are gone.
  void drop_gone_packs();

  /// Looks for what was written and deleted since.
  void refresh();

  /// The packs that are there, with their sizes in bytes.
  struct PackInfo {
    PackId id;
    std::uint64_t size = 0;  ///< bytes
    WallTime modified{};     ///< by the store's clock
    bool doomed = false;
    bool complete = true;  ///< all its records are known
  };
  [[nodiscard]] std::vector<PackInfo> packs();
  /// Whether anything was found damaged or missing: in quarantine, or a pack that is gone.
  [[nodiscard]] bool knows_of_losses();
  [[nodiscard]] bool in_quarantine(const PackId& pack, const ChunkId& chunk);
  /// Takes that pack's records out of quarantine, for this program.
  void trust(const PackId& pack);
  /// What is wrong with objects of the index or of quarantine; the packs make up for the first.
  [[nodiscard]] std::vector<std::string> problems();
  /// As if that pack's copies of them were in quarantine. Returns those that were not yet.
  std::vector<ChunkId> distrust(const PackId& pack, std::span<const ChunkId> chunks);

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
    bool present = true;
    bool incomplete = false;  ///< its records could not all be read
    bool doomed = false;      ///< prune deletes it soon: nobody may come to rely on it
    WallTime modified{};
    std::uint64_t size = UINT64_MAX;  ///< bytes; of one that this program writes: not yet known
  };

  void load();
  void mount_objects();
  void read_dooms();
  void read_uncovered(const std::set<PackId>& present);
  void mount(std::string name, std::unique_ptr<ObjectView> view);
  template <typename Use>
  bool any_copy(const ChunkId& id, const Use& use) const;
  bool known(const ChunkId& id) const;
  bool usable(const ChunkId& id, std::uint32_t pack, std::uint64_t offset, std::uint64_t stored) const;
  void locate(const ChunkId& id, std::vector<Location>& found) const;
  std::uint32_t number_of(const PackId& id);
  [[nodiscard]] bool has_many_tables() const;
  void publish_locked(Unwritten unwritten = Unwritten::fails);
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
  std::vector<std::string> problems_;
  std::set<std::string> dooms_;
  std::set<std::string> passed_over_;  ///< objects that a rebuild replaces
  Quarantine quarantine_;
  std::vector<Mounted> tables_;
  std::unordered_map<ChunkId, Fresh, ChunkIdHash> fresh_;        ///< claimed or written by this program
  std::unordered_multimap<ChunkId, Fresh, ChunkIdHash> copies_;  ///< what packs say that no table lists
};

}  // namespace stillpoint
