// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/clock.hh"
#include "host/repository/drill-record.hh"
#include "host/repository/key-ring.hh"
#include "host/repository/manifest.hh"
#include "host/repository/prune-result.hh"
#include "host/repository/retention.hh"
#include "host/repository/store.hh"
#include "host/repository/verify-result.hh"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// What storing something has added.
struct StoredCounts {
  std::uint64_t chunks = 0;      ///< given, zero chunks left out
  std::uint64_t new_chunks = 0;  ///< that were not there yet
  std::uint64_t stored = 0;      ///< bytes that the packs grew by
};

/// Stores one disk. From acquire() to finish() for one thread; several writers may be used at once by as many threads.
class DiskWriter : public ChunkSink {
 public:
  /// Waits until all submitted chunks are stored (not yet durable: commit() makes them so), and names the disk's map.
  /// Chunks that were neither submitted nor zero are the base's. Throws what stopped the engine.
  [[nodiscard]] virtual DiskMap finish() = 0;
  [[nodiscard]] virtual StoredCounts counts() const = 0;
};

/// Stores one stream, cut by content.
class DumpWriter {
 public:
  virtual ~DumpWriter() = default;
  /// Any number of bytes; waits when the engine is behind.
  virtual void write(std::span<const std::byte> bytes) = 0;
  [[nodiscard]] virtual StreamMap finish() = 0;
  [[nodiscard]] virtual StoredCounts counts() const = 0;
};

struct RepositoryOptions {
  std::uint32_t chunk_bytes = 256 << 10;  ///< a power of two, 64 KiB to 4 MiB; fixed for the repository's life
  /// The first key of an encrypted one; without it, nothing is ever encrypted.
  std::optional<KeySource> key{};
};

/// What `list` shows without reading a whole manifest twice.
struct StillPointSummary {
  std::string name;
  std::string domain;
  WallTime instant{};
};

/// One repository: a set of immutable objects behind a store (docs/repository-format.md).
class Repository {
 public:
  using Locks = std::vector<std::unique_ptr<StoreLock>>;
  enum class Mode {
    read,
    write,
    reclaim,  ///< write, to delete: also where the store is full
  };

  /// Makes a new one. Throws ConfigError when there is something already, StorageError when it cannot be written.
  static void create(std::string_view url, const RepositoryOptions& options);

  /// Opens it. Throws ConfigError: no such place, not a repository, a newer format, read-only for writing, encrypted
  /// and the key is missing or wrong.
  Repository(std::string_view url, Mode mode, const AskForKey& ask = {});
  /// On a store that is open already.
  Repository(std::shared_ptr<Store> store, Mode mode, const AskForKey& ask = {});
  Repository(Repository&&) noexcept;
  Repository& operator=(Repository&&) noexcept;
  ~Repository();

  /// What it can be opened by from everywhere on this machine.
  [[nodiscard]] const std::string& url() const;
  /// is_id; fixed at its creation.
  [[nodiscard]] const std::string& id() const;
  [[nodiscard]] std::uint32_t chunk_bytes() const;
  [[nodiscard]] bool encrypted() const;
  /// Adds a key to those that open it; its id. Throws ConfigError when it is not encrypted.
  std::string add_key(const KeySource& source, std::string_view label);
  /// Throws NotFound; UsageError for the last one.
  void remove_key(const std::string& id);
  [[nodiscard]] std::vector<KeyInfo> keys();
  /// Where trees go; empty for a store that is no directory.
  [[nodiscard]] std::optional<std::filesystem::path> directory() const;

  /// Of chunks that are stored from now on: 0 to max_compression.
  void set_compression(int level);

  /// `base`: the disk as it was, for an incremental; may be of another size.
  [[nodiscard]] std::unique_ptr<DiskWriter> write_disk(std::uint64_t size, const std::optional<DiskMap>& base);
  /// `base`: an earlier dump of the same database; where the new one differs in little, only that is stored.
  [[nodiscard]] std::unique_ptr<DumpWriter> write_dump(const std::optional<StreamMap>& base = std::nullopt);

  /// Keeps other backups of this domain into this repository away while the lock lives. Throws Locked at once.
  [[nodiscard]] std::unique_ptr<StoreLock> lock_domain(const std::string& uuid);
  /// Keeps everybody else who uses this repository from the nodes of these database clusters while the locks live.
  /// Throws Locked after the deadline, Interrupted.
  [[nodiscard]] Locks lock_clusters(const std::vector<std::string>& names, const Deadline& deadline,
                                    const std::stop_token& stop);

  /// A free name for a still point of that domain and instant: "web1@2026-11-22T08:20:11Z", with microseconds when that
  /// one is taken; `taken`: so many names turned out to be. Throws UsageError for a domain's name that cannot be part
  /// of one.
  [[nodiscard]] std::string free_name(std::string_view domain, WallTime instant, unsigned taken = 0);

  /// Makes everything written durable, then the manifest: pack -> fsync -> rename -> directory fsync -> index ->
  /// manifest. manifest.name is set (free_name). Nothing that is not committed is ever listed.
  void commit(Manifest& manifest);
  /// Throws Locked when the lease that it works under was taken away, for it stood still too long.
  void check_lease();

  /// Every chunk that is read is checked against its id (Corruption). `cache_bytes`: so much of the chunks of which a
  /// part was read is kept in memory, for the rest of them is often read next.
  [[nodiscard]] std::unique_ptr<BlockReader> open_disk(const DiskMap& map, std::size_t cache_bytes = 8 << 20);
  /// Tells the ranges of `to` that may hold other bytes than `from` has there, in ascending order; no data where `to`
  /// has zeros. Costs what differs. The consumer may throw to stop. Throws Corruption.
  void compare_disks(const DiskMap& from, const DiskMap& to, const std::function<void(const Extent&)>& consumer);
  /// Reads a copy of that disk, of the same size, and tells where it is another one, by the chunks' ids. The consumer
  /// may throw to stop. Throws Corruption, and what reading the copy throws.
  void check_copy(const DiskMap& map, BlockReader& copy, CaptureProgress& progress,
                  const std::function<void(const Extent&)>& consumer);

  /// In order. The consumer may throw to stop.
  void read_dump(const StreamMap& map, const std::function<void(std::span<const std::byte>)>& consumer);

  /// The same, at any place; for large reads. Throws Corruption.
  [[nodiscard]] std::unique_ptr<BlockReader> open_dump(const StreamMap& map);

  /// The still points that these name, in full: "web1" is all of that domain, nothing is all that there are. Throws
  /// UsageError, NotFound.
  [[nodiscard]] std::vector<std::string> resolve(const std::vector<std::string>& names);

  /// Whether everything that these still points need is there; with `read_percent`, whether it is as it was written.
  /// Empty: all. Damaged chunks go to quarantine where the repository is open for writing, and the next backup that has
  /// them stores them anew. Throws NotFound, Interrupted.
  [[nodiscard]] VerifyResult verify(const std::vector<std::string>& names, const VerifyOptions& options);
  /// What the policy makes of the still points of these domains; empty: of all. By domain, oldest first.
  [[nodiscard]] std::vector<RetainedStillPoint> retention(const RetentionPolicy& policy,
                                                          const std::vector<std::string>& domains);
  /// Deletes a still point; its space is reclaimed by reclaim(). Throws NotFound, UsageError for a protected one.
  void remove(const std::string& name);
  /// Keeps a still point from being deleted, or no longer. Throws NotFound.
  void protect(const std::string& name, bool on);
  /// Writes down how a drill of a still point went: the newest counts.
  void record_drill(const DrillRecord& record);
  /// The newest drill's object of each still point that had one, by its name; of one still point when it is named in
  /// full.
  [[nodiscard]] std::map<std::string, std::string> drills(std::string_view name = {});
  /// Throws NotFound, Corruption.
  [[nodiscard]] DrillRecord load_drill(const std::string& object);

  /// By its full name.
  [[nodiscard]] bool contains(const std::string& name);
  [[nodiscard]] bool is_protected(const std::string& name);
  /// Deletes what no still point needs. Throws Locked when another prune runs, Corruption, Interrupted.
  ReclaimResult reclaim(const ReclaimOptions& options);

  /// Since when the oldest backup, restore or prune that runs here does so, by its own clock; now when there is none.
  /// Whoever is taken for dead is fenced first, and commits nothing any more.
  [[nodiscard]] WallTime oldest_work();

  /// Replaces the index by what the packs' own footers say. Returns how many packs there are.
  std::size_t rebuild_index();

  /// Whether all that a disk needs is there, as far as an earlier verify() has told. Costs nothing while nothing was
  /// ever found damaged.
  [[nodiscard]] bool is_whole(const DiskMap& map);

  /// By domain, then by time, oldest first; all domains when `domain` is empty.
  [[nodiscard]] std::vector<StillPointSummary> list(std::string_view domain = {});
  /// "web1@2026-11-22T08:20:11Z", "web1@latest" or "web1" (the latest). Throws UsageError, NotFound, Corruption.
  [[nodiscard]] Manifest load(std::string_view name);
  /// The newest still point of that domain, if any.
  [[nodiscard]] std::optional<Manifest> latest(std::string_view domain);

 private:
  void relink_base(const Manifest& manifest);

  class Engine;
  std::unique_ptr<Engine> engine_;
};

}  // namespace stillpoint
