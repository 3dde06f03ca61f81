// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/buffer-pool.hh"
#include "host/repository/chunk-id.hh"
#include "host/repository/compression.hh"
#include "host/repository/crew.hh"
#include "host/repository/index.hh"
#include "host/repository/key-ring.hh"
#include "host/repository/pack-stream.hh"
#include "host/repository/pack.hh"
#include "host/repository/record-seal.hh"
#include "host/repository/store.hh"

#include <array>
#include <atomic>
#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace stillpoint {

struct StoredCounts;

/// What one writer has added, counted by all threads that work for it.
struct StoredTally {
  std::atomic<std::uint64_t> chunks{0};
  std::atomic<std::uint64_t> new_chunks{0};
  std::atomic<std::uint64_t> stored{0};
  [[nodiscard]] StoredCounts counts() const noexcept;
};

/// Chunks by their ids: what disks and dumps are made of. May be used by several threads.
class ChunkStore {
 public:
  struct Wanted {
    ChunkId id;
    std::span<std::byte> plain;  ///< to be filled; as long as the chunk
  };

  /// `repository`: its id, is_id. `keys`: null for one that is not encrypted.
  ChunkStore(std::shared_ptr<Store> store, std::string_view repository, std::uint32_t chunk_bytes, bool writable,
             std::shared_ptr<const RepositoryKeys> keys = nullptr);
  ChunkStore(const ChunkStore&) = delete;
  ChunkStore& operator=(const ChunkStore&) = delete;
  ~ChunkStore();

  [[nodiscard]] std::uint32_t chunk_bytes() const noexcept { return chunk_bytes_; }
  /// Of chunks that are stored from now on: 0 to max_compression.
  void set_compression(int level) noexcept { compression_.store(level, std::memory_order_relaxed); }

  /// Stores a chunk unless it is there; not durable before flush(). Zero chunks are stored as any other.
  ChunkId put(std::span<const std::byte> plain, RecordKind kind, StoredTally& tally);
  /// One that name() has named.
  void put(const ChunkId& id, std::span<const std::byte> plain, RecordKind kind, StoredTally& tally);
  /// Two of a disk's chunks: faster than one after the other.
  std::array<ChunkId, 2> put(std::span<const std::byte> first, std::span<const std::byte> second, StoredTally& tally);

  /// The id of a chunk, stored or not.
  [[nodiscard]] ChunkId name(std::span<const std::byte> plain);

  /// Fills `plain` with the chunk, which has exactly that length; checked against its id. Throws Corruption.
  void get(const ChunkId& id, std::span<std::byte> plain);
  /// Two chunks: faster than one after the other.
  void get(const Wanted& first, const Wanted& second);
  /// A chunk of unknown length, at most `limit` bytes.
  [[nodiscard]] std::vector<std::byte> get(const ChunkId& id, std::size_t limit);

  /// Whether this very copy of the chunk can be read.
  [[nodiscard]] bool is_good(const ChunkId& id, const Index::Location& copy);

  /// Makes everything that was put durable, then the index.
  void flush(Index::Unwritten unwritten = Index::Unwritten::fails);

  /// Stops all writers: they throw it from now on. The first one counts.
  void fail(std::exception_ptr failure) noexcept;
  /// Throws what was given to fail().
  void check() const;
  [[nodiscard]] bool failed() const noexcept { return has_failed_; }

  [[nodiscard]] Store& store() noexcept { return *store_; }
  /// The repository's id in bytes.
  [[nodiscard]] std::span<const std::byte, 16> repository() const noexcept { return repository_; }
  [[nodiscard]] const RepositoryKeys* keys() const noexcept { return keys_.get(); }
  [[nodiscard]] bool writable() const noexcept { return writable_; }
  [[nodiscard]] Index& index() noexcept { return index_; }
  [[nodiscard]] Crew& crew() noexcept { return crew_; }
  [[nodiscard]] BufferPool& disk_buffers() noexcept { return disk_buffers_; }
  [[nodiscard]] BufferPool& dump_buffers() noexcept { return dump_buffers_; }

 private:
  struct PutContext;
  struct GetContext;
  template <typename Context>
  class Loan;

  void put_named(PutContext& context, const ChunkId& id, std::span<const std::byte> plain, RecordKind kind,
                 StoredTally& tally);
  std::size_t store(PutContext& context, const ChunkId& id, std::span<const std::byte> plain, RecordKind kind);
  std::vector<std::byte> get_sized(const ChunkId& id, std::size_t exact, std::size_t limit, std::span<std::byte> into);
  /// Throws Corruption. Its bytes are the caller's to check against the id.
  void read_record(GetContext& context, const ChunkId& id, const Index::Location& location, std::span<std::byte> plain);
  bool read_first_copy(GetContext& context, const Wanted& wanted);
  std::shared_ptr<ObjectReader> pack_reader(const PackId& id);

  std::shared_ptr<Store> store_;
  std::array<std::byte, 16> repository_{};
  std::uint32_t chunk_bytes_;
  std::atomic<int> compression_{default_compression};
  bool writable_;
  std::shared_ptr<const RepositoryKeys> keys_;
  std::optional<WriterKey> writer_key_;
  Index index_;
  PackStream packs_;
  std::shared_mutex putting_;  ///< shared from a claim until the chunk is in a pack; flush() takes it alone

  std::mutex contexts_mutex_;
  std::vector<std::unique_ptr<PutContext>> put_contexts_;
  std::vector<std::unique_ptr<GetContext>> get_contexts_;

  std::mutex readers_mutex_;
  std::list<std::pair<PackId, std::shared_ptr<ObjectReader>>> readers_;  ///< most recently used first

  mutable std::mutex failure_mutex_;
  std::exception_ptr failure_;
  std::atomic<bool> has_failed_{false};

  BufferPool disk_buffers_;
  BufferPool dump_buffers_;
  Crew crew_;  ///< last: its threads end before what they use
};

}  // namespace stillpoint
