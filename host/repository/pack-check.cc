// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/pack-check.hh"

#include "common/errors.hh"
#include "host/repository/checksum.hh"
#include "host/repository/chunk-decoder.hh"
#include "host/repository/store.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace stillpoint {

namespace {

/// Read at once; longer than the longest record.
constexpr std::size_t check_window_bytes = 8 << 20;
static_assert(check_window_bytes > record_header_bytes + max_chunk_bytes + sealed_record_bytes + record_alignment);

/// What reading a pack needs.
struct Workspace {
  explicit Workspace(const RepositoryKeys* keys) : decoder(keys), hash(hasher_for(keys)) {}
  std::vector<std::byte> window = std::vector<std::byte>(check_window_bytes);
  std::array<std::vector<std::byte>, 2> plain;
  ChunkDecoder decoder;
  ChunkHasher hash;
};

class Check {
 public:
  Check(ObjectReader& pack, Workspace& workspace, const std::function<void(std::uint64_t)>& progress, PackCheck& result)
      : pack_(pack), workspace_(workspace), progress_(progress), result_(result) {}

  void record(const PackEntry& entry) {
    failed_ = false;
    if (!is_decoded(entry, workspace_.plain[waiting_.size()]))
      return (failed_ ? result_.unreadable : result_.damaged).push_back(entry.id);
    // Two are hashed faster together.
    waiting_.push_back(entry);
    if (waiting_.size() == 2) finish();
  }

  /// Judges what waits for a second chunk.
  void finish() {
    const auto& plain = workspace_.plain;
    std::array<ChunkId, 2> ids;
    if (waiting_.size() == 2)
      ids = workspace_.hash(plain[0], plain[1]);
    else if (!waiting_.empty())
      ids[0] = workspace_.hash(plain[0]);
    for (std::size_t i = 0; i < waiting_.size(); ++i) {
      const bool good = ids[i] == waiting_[i].id;
      if (good) result_.plain += waiting_[i].plain;
      (good ? result_.good : result_.damaged).push_back(waiting_[i].id);
    }
    waiting_.clear();
  }

 private:
  /// The bytes at that place; empty when they cannot be read.
  std::span<const std::byte> bytes(std::uint64_t offset, std::size_t length) {
    if (offset < start_ || offset + length > start_ + filled_) {
      if (offset + length > pack_.size()) return {};
      start_ = offset;
      filled_ = 0;
      const std::size_t wanted = std::min<std::uint64_t>(check_window_bytes, pack_.size() - offset);
      try {
        pack_.read(offset, std::span(workspace_.window).first(wanted));
        filled_ = wanted;
      } catch (const Corruption&) {
        // One place that cannot be read must not cost its neighbours.
        try {
          pack_.read(offset, std::span(workspace_.window).first(length));
          filled_ = length;
        } catch (const Corruption&) {
          failed_ = true;
          return {};
        }
      }
      result_.bytes += filled_;
      progress_(filled_);
    }
    return std::span<const std::byte>(workspace_.window).subspan(offset - start_, length);
  }

  bool is_decoded(const PackEntry& entry, std::vector<std::byte>& plain) {
    const std::size_t length = record_header_bytes + entry.stored;
    std::span<const std::byte> record = bytes(entry.offset, record_length(entry.stored));
    if (record.empty()) return false;
    if (!is_zero(record.subspan(length)) && result_.problem.empty())
      result_.problem = "there are stray bytes between the records of a pack";
    record = record.first(length);
    const std::optional<RecordHeader> header = decode_record_header(record.first<record_header_bytes>());
    const std::span<const std::byte> stored = record.subspan(record_header_bytes);
    if (!header || header->id != entry.id || header->stored != entry.stored || header->plain != entry.plain ||
        crc32c(stored) != header->payload_crc)
      return false;
    plain.resize(entry.plain);
    return workspace_.decoder.decode(*header, stored, plain) == nullptr;
  }

  ObjectReader& pack_;
  Workspace& workspace_;
  const std::function<void(std::uint64_t)>& progress_;
  PackCheck& result_;
  std::uint64_t start_ = 0;  ///< of the window in the pack
  std::size_t filled_ = 0;
  std::vector<PackEntry> waiting_;  ///< decoded to workspace_.plain, not hashed yet
  bool failed_ = false;             ///< the store did not give the bytes
};

}  // namespace

PackCheck check_pack(Store& store, const PackId& id, std::span<const std::byte, 16> repository,
                     const RepositoryKeys* keys, const std::function<void(std::uint64_t bytes)>& progress) {
  Workspace workspace(keys);
  PackCheck result;
  try {
    PackContents contents = read_pack_entries(store, id, repository);
    result.problem = std::move(contents.problem);
    const std::unique_ptr<ObjectReader> pack = store.reader(object_name(id));
    Check check(*pack, workspace, progress, result);
    std::ranges::sort(contents.entries, {}, &PackEntry::offset);
    std::uint64_t end = 0;
    for (const PackEntry& entry : contents.entries) {
      // One record that is listed a thousand times would be read as often.
      if (entry.offset < end) {
        result.damaged.push_back(entry.id);
        continue;
      }
      end = entry.offset + record_length(entry.stored);
      check.record(entry);
    }
    check.finish();
  } catch (const Corruption& e) {
    result.problem = e.what();
    result.read = false;
  } catch (const NotFound&) {
    result.read = false;  // a prune has deleted it, or else the maps tell
  }
  return result;
}

}  // namespace stillpoint
