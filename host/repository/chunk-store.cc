// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/chunk-store.hh"

#include "common/deleter.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "host/repository/checksum.hh"
#include "host/repository/chunk-decoder.hh"
#include "host/repository/repository.hh"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <optional>

namespace stillpoint {

namespace {

constexpr std::size_t disk_buffer_memory = 96 << 20;
constexpr std::size_t dump_buffer_memory = 32 << 20;
constexpr std::size_t open_packs = 64;

/// A chunk that shrinks by less than this part is stored raw: reading it costs nothing then.
constexpr std::size_t least_gain = 64;

}  // namespace

StoredCounts StoredTally::counts() const noexcept {
  return {chunks.load(), new_chunks.load(), stored.load()};
}

struct ChunkStore::PutContext {
  explicit PutContext(ChunkStore& store) : hash(hasher_for(store.keys())) {
    if (store.writer_key_) sealer.emplace(*store.writer_key_);
  }
  CPtr<ZSTD_CCtx, ZSTD_freeCCtx> compressor{ZSTD_createCCtx()};
  ChunkHasher hash;
  std::optional<RecordSealer> sealer;
  std::vector<std::byte> record;
  std::vector<std::byte> compressed;  ///< before it is sealed
};

struct ChunkStore::GetContext {
  explicit GetContext(ChunkStore& store) : decoder(store.keys()), hash(hasher_for(store.keys())) {}
  ChunkDecoder decoder;
  ChunkHasher hash;
  std::vector<std::byte> record;
};

/// A context for the length of one chunk; they are kept, because making one costs more than a small chunk.
template <typename Context>
class ChunkStore::Loan {
 public:
  Loan(ChunkStore& store, std::vector<std::unique_ptr<Context>>& contexts)
      : mutex_(store.contexts_mutex_), contexts_(contexts) {
    {
      const std::scoped_lock lock(mutex_);
      if (!contexts_.empty()) {
        context_ = std::move(contexts_.back());
        contexts_.pop_back();
      }
    }
    if (!context_) context_ = std::make_unique<Context>(store);
  }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  ~Loan() {
    const std::scoped_lock lock(mutex_);
    contexts_.push_back(std::move(context_));
  }
  Context& operator*() const noexcept { return *context_; }
  Context* operator->() const noexcept { return context_.get(); }

 private:
  std::mutex& mutex_;
  std::vector<std::unique_ptr<Context>>& contexts_;
  std::unique_ptr<Context> context_;
};

namespace {

std::array<std::byte, 16> id_bytes(std::string_view id) {
  std::array<std::byte, 16> bytes{};
  if (!hex_to_bytes(id, bytes)) throw Corruption("the repository's id is not an id");
  return bytes;
}

[[noreturn]] void throw_damaged(const ChunkId& id, const Index::Location& location, std::string_view what) {
  throw Corruption(fmt::format("chunk {} in pack {} at {}: {}", to_hex(id), bytes_to_hex(location.pack.bytes),
                               location.offset, what),
                   "restore another still point; verify shows what else is affected");
}

}  // namespace

ChunkStore::ChunkStore(std::shared_ptr<Store> store, std::string_view repository, std::uint32_t chunk_bytes,
                       bool writable, std::shared_ptr<const RepositoryKeys> keys)
    : store_(std::move(store)),
      repository_(id_bytes(repository)),
      chunk_bytes_(chunk_bytes),
      writable_(writable),
      keys_(std::move(keys)),
      index_(*store_, repository_, writable),
      packs_(*store_, repository_, index_, keys_ != nullptr),
      disk_buffers_(chunk_bytes, disk_buffer_memory / chunk_bytes),
      dump_buffers_(max_dump_chunk_bytes, dump_buffer_memory / max_dump_chunk_bytes) {
  if (keys_) writer_key_.emplace(keys_->data);
}

ChunkStore::~ChunkStore() = default;

ChunkId ChunkStore::put(std::span<const std::byte> plain, RecordKind kind, StoredTally& tally) {
  const Loan<PutContext> context(*this, put_contexts_);
  const ChunkId id = context->hash(plain);
  put_named(*context, id, plain, kind, tally);
  return id;
}

void ChunkStore::put(const ChunkId& id, std::span<const std::byte> plain, RecordKind kind, StoredTally& tally) {
  const Loan<PutContext> context(*this, put_contexts_);
  put_named(*context, id, plain, kind, tally);
}

ChunkId ChunkStore::name(std::span<const std::byte> plain) {
  const Loan<PutContext> context(*this, put_contexts_);
  return context->hash(plain);
}

std::array<ChunkId, 2> ChunkStore::put(std::span<const std::byte> first, std::span<const std::byte> second,
                                       StoredTally& tally) {
  const Loan<PutContext> context(*this, put_contexts_);
  const std::array<ChunkId, 2> ids = context->hash(first, second);
  put_named(*context, ids[0], first, RecordKind::data, tally);
  put_named(*context, ids[1], second, RecordKind::data, tally);
  return ids;
}

void ChunkStore::put_named(PutContext& context, const ChunkId& id, std::span<const std::byte> plain, RecordKind kind,
                           StoredTally& tally) {
  if (!writable_) throw ConfigError("the repository is open for reading only");
  if (plain.empty() || plain.size() > max_chunk_bytes) throw std::length_error("a chunk of a length out of bounds");
  ++tally.chunks;
  const std::shared_lock putting(putting_);
  if (!index_.claim(id)) return;
  try {
    tally.stored += store(context, id, plain, kind);
    ++tally.new_chunks;
  } catch (...) {
    // Others may rely on the claim: nothing may be committed any more.
    fail(std::current_exception());
    throw;
  }
}

std::size_t ChunkStore::store(PutContext& context, const ChunkId& id, std::span<const std::byte> plain,
                              RecordKind kind) {
  std::vector<std::byte>& record = context.record;
  const std::size_t bound = ZSTD_compressBound(plain.size());
  const std::size_t room = record_header_bytes + bound + sealed_record_bytes + record_alignment;
  if (record.size() < room) record.resize(room);
  if (context.sealer && context.compressed.size() < bound) context.compressed.resize(bound);
  RecordHeader header{
      Codec::zstd, kind, 0, static_cast<std::uint32_t>(plain.size()), id, 0, context.sealer.has_value()};
  std::byte* payload = record.data() + record_header_bytes;
  std::byte* packed = context.sealer ? context.compressed.data() : payload;
  const int level = compression_.load(std::memory_order_relaxed);
  std::size_t stored =
      level == 0 ? bound
                 : ZSTD_compressCCtx(context.compressor.get(), packed, bound, plain.data(), plain.size(), level);
  if (ZSTD_isError(stored) != 0 || stored + plain.size() / least_gain >= plain.size()) {
    header.codec = Codec::raw;
    stored = plain.size();
    if (!context.sealer) std::memcpy(payload, plain.data(), stored);
  }
  if (context.sealer) {
    const std::span<const std::byte> what = header.codec == Codec::raw ? plain : std::span(packed, stored);
    stored += sealed_record_bytes;
    header.stored = static_cast<std::uint32_t>(stored);
    context.sealer->seal(header, what, {payload, stored});
  }
  header.stored = static_cast<std::uint32_t>(stored);
  header.payload_crc = crc32c({payload, stored});
  encode(header, std::span(record).first<record_header_bytes>());
  const std::size_t length = record_length(stored);
  std::memset(payload + stored, 0, length - record_header_bytes - stored);
  packs_.append(header, std::span(record).first(length));
  return length;
}

void ChunkStore::get(const ChunkId& id, std::span<std::byte> plain) {
  static_cast<void>(get_sized(id, plain.size(), plain.size(), plain));
}

std::vector<std::byte> ChunkStore::get(const ChunkId& id, std::size_t limit) {
  return get_sized(id, 0, limit, {});
}

std::vector<std::byte> ChunkStore::get_sized(const ChunkId& id, std::size_t exact, std::size_t limit,
                                             std::span<std::byte> into) {
  std::optional<Corruption> failure;
  for (const bool again : {false, true}) {
    // A prune may have moved it since the index was read.
    if (again) index_.refresh();
    for (const Index::Location& location : index_.find(id)) {
      if (!location.sealed) packs_.flush();
      try {
        if (location.plain == 0 || location.plain > limit || (exact != 0 && location.plain != exact))
          throw Corruption(fmt::format("chunk {} in pack {} has {} bytes, which does not fit its use", to_hex(id),
                                       bytes_to_hex(location.pack.bytes), location.plain));
        std::vector<std::byte> own(into.empty() ? location.plain : 0);
        const std::span<std::byte> plain = into.empty() ? std::span(own) : into;
        const Loan<GetContext> context(*this, get_contexts_);
        read_record(*context, id, location, plain);
        if (context->hash(plain) != id) throw_damaged(id, location, "its bytes do not match its id");
        if (failure) log_warning("{}; another copy was read instead", failure->what());
        return own;
      } catch (const Corruption& e) {
        if (!failure) failure = e;
        // Whoever stores it now stores it.
        static_cast<void>(index_.distrust(location.pack, {&id, 1}));
      }
    }
    if (!failure) break;  // it has looked for new packs already
  }
  if (failure) throw Corruption(*failure);
  throw Corruption(fmt::format("chunk {} is missing: no pack of {} has it", to_hex(id), store_->url()),
                   "restore another still point; verify shows what else is affected");
}

void ChunkStore::get(const Wanted& first, const Wanted& second) {
  std::array<bool, 2> good{};
  {
    const Loan<GetContext> context(*this, get_contexts_);
    good = {read_first_copy(*context, first), read_first_copy(*context, second)};
    if (good[0] && good[1]) {
      const std::array<ChunkId, 2> ids = context->hash(first.plain, second.plain);
      good = {ids[0] == first.id, ids[1] == second.id};
    } else {
      good = {};
    }
  }
  if (!good[0]) get(first.id, first.plain);
  if (!good[1]) get(second.id, second.plain);
}

bool ChunkStore::is_good(const ChunkId& id, const Index::Location& copy) {
  if (copy.plain > max_chunk_bytes) return false;
  std::vector<std::byte> plain(copy.plain);
  const Loan<GetContext> context(*this, get_contexts_);
  try {
    read_record(*context, id, copy, plain);
  } catch (const Corruption&) {
    return false;
  }
  return context->hash(plain) == id;
}

/// False when it is not to be had at first sight; why is for get() to find out.
bool ChunkStore::read_first_copy(GetContext& context, const Wanted& wanted) {
  const std::vector<Index::Location> locations = index_.find(wanted.id);
  if (locations.empty() || !locations.front().sealed || locations.front().plain != wanted.plain.size()) return false;
  try {
    read_record(context, wanted.id, locations.front(), wanted.plain);
    return true;
  } catch (const Corruption&) {
    return false;
  }
}

void ChunkStore::read_record(GetContext& context, const ChunkId& id, const Index::Location& location,
                             std::span<std::byte> plain) {
  const auto fail = [&](std::string_view what) { throw_damaged(id, location, what); };
  if (location.stored > max_chunk_bytes + sealed_record_bytes) fail("its length is out of bounds");
  std::vector<std::byte>& record = context.record;
  const std::size_t length = record_header_bytes + location.stored;
  if (record.size() < length) record.resize(length);
  const std::shared_ptr<ObjectReader> pack = pack_reader(location.pack);
  if (location.offset + length > pack->size()) fail("it lies behind the end of the pack");
  pack->read(location.offset, std::span(record).first(length));
  const std::optional<RecordHeader> header =
      decode_record_header(std::span<const std::byte>(record).first<record_header_bytes>());
  if (!header) fail("its record header is damaged");
  if (header->id != id || header->stored != location.stored || header->plain != location.plain)
    fail("another record stands there");
  const std::span<const std::byte> stored(record.data() + record_header_bytes, header->stored);
  if (const char* problem = context.decoder.decode(*header, stored, plain)) fail(problem);
}

std::shared_ptr<ObjectReader> ChunkStore::pack_reader(const PackId& id) {
  const std::scoped_lock lock(readers_mutex_);
  const auto found = std::find_if(readers_.begin(), readers_.end(), [&](const auto& item) { return item.first == id; });
  if (found != readers_.end()) {
    readers_.splice(readers_.begin(), readers_, found);
    return readers_.front().second;
  }
  std::shared_ptr<ObjectReader> reader;
  try {
    reader = store_->reader(object_name(id));
  } catch (const NotFound& e) {
    throw Corruption(e.what());
  }
  readers_.emplace_front(id, reader);
  if (readers_.size() > open_packs) readers_.pop_back();
  return reader;
}

void ChunkStore::flush(Index::Unwritten unwritten) {
  check();
  // Chunks that a writer relies on may be on their way in another thread: they must be in a pack before it is sealed.
  const std::unique_lock alone(putting_);
  packs_.flush();
  index_.publish(unwritten);
}

void ChunkStore::fail(std::exception_ptr failure) noexcept {
  {
    const std::scoped_lock lock(failure_mutex_);
    if (!failure_) failure_ = failure;
  }
  has_failed_ = true;
  disk_buffers_.fail(failure);
  dump_buffers_.fail(failure);
}

void ChunkStore::check() const {
  if (!has_failed_) return;
  const std::scoped_lock lock(failure_mutex_);
  std::rethrow_exception(failure_);
}

}  // namespace stillpoint
