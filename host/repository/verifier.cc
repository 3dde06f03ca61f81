// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/verifier.hh"

#include "common/errors.hh"
#include "host/repository/disk-tree.hh"
#include "host/repository/dump-reader.hh"
#include "host/repository/map-node.hh"
#include "host/repository/pack-check.hh"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <random>
#include <set>

namespace stillpoint {

std::string MapCheck::chunk(const ChunkId& id, std::uint64_t shortest, std::uint64_t longest) {
  const std::optional<std::uint32_t> there = chunks_.index().length_of(id);
  if (!there) {
    missing_.insert(id);
    return fmt::format("chunk {} is missing or damaged", to_hex(id));
  }
  if (found_) found_(id);
  if (*there < shortest || *there > longest)
    return fmt::format("chunk {} has {} bytes, not {}", to_hex(id), *there, longest);
  return {};
}

std::vector<std::byte> MapCheck::node(const ChunkId& id, std::size_t limit) {
  std::vector<std::byte> bytes = chunks_.get(id, limit);
  if (found_) found_(id);
  return bytes;
}

std::string MapCheck::why_not_whole(const DiskMap& map) {
  if (is_zero_chunk(map.root)) return {};
  const DiskShape shape(map.size, chunks_.chunk_bytes());
  return disk_node(shape, map.root, shape.height(), 0);
}

const std::string& MapCheck::disk_node(const DiskShape& shape, const ChunkId& id, unsigned level, std::uint64_t index) {
  // The node at the disk's end covers less than it could.
  const std::uint64_t first = index * DiskShape::span(level);
  const std::uint64_t chunks = std::min(DiskShape::span(level), shape.chunks() - first);
  const bool last = first + chunks == shape.chunks();
  const Key key{id, (last ? shape.size() + 1 : 0) * 8 + level};
  if (const auto seen = seen_.find(key); seen != seen_.end()) return seen->second;
  std::string why;
  try {
    const DiskNode decoded = shape.decode(node(id, max_disk_node_bytes), level, index, id);
    const std::vector<ChunkId>& ids = decoded.ids;
    // All of them, also when one is missing: whoever keeps what is used must know of the others.
    for (std::uint64_t i = 0; i < ids.size(); ++i) {
      if (is_zero_chunk(ids[i])) continue;
      const std::uint64_t child = index * map_fanout + i;
      const std::string below = level == 1 ? chunk(ids[i], shape.chunk_length(child), shape.chunk_length(child))
                                           : disk_node(shape, ids[i], level - 1, child);
      if (why.empty()) why = below;
    }
    for (const DiskPatch& patch : decoded.patches)
      if (const std::string below = chunk(patch.id, patch.length(), patch.length()); why.empty()) why = below;
  } catch (const Corruption& e) {
    lost_nodes_ = true;
    why = e.what();
  }
  return seen_.emplace(key, std::move(why)).first->second;
}

std::string MapCheck::why_not_whole(const StreamMap& map) {
  if (map.size == 0) return {};
  try {
    const unsigned level = stream_node_level(node(map.root, max_stream_node_bytes), map.root);
    return stream_node(map.root, level, map.size);
  } catch (const Corruption& e) {
    lost_nodes_ = true;
    return e.what();
  }
}

const std::string& MapCheck::stream_node(const ChunkId& id, unsigned level, std::uint64_t length) {
  const Key key{id, length * 8 + level};
  if (const auto seen = seen_.find(key); seen != seen_.end()) return seen->second;
  std::string why;
  try {
    const std::vector<std::byte> bytes = node(id, max_stream_node_bytes);
    const auto note = [&](const std::string& below) {
      if (why.empty()) why = below;
    };
    if (level > 1) {
      for (const StreamEntry& entry : decode_stream_node(bytes, level, length, id))
        note(stream_node(entry.id, level - 1, entry.length));
    } else {
      const std::vector<StreamPiece> pieces = decode_stream_leaf(bytes, length, id);
      for (const StreamPiece& piece : pieces) {
        if (is_zero_chunk(piece.id)) continue;
        note(piece.patched() ? chunk(piece.patch, 1, max_dump_chunk_bytes)
                             : chunk(piece.id, piece.length, piece.length));
        for (const ChunkId& base : piece.bases)
          note(chunk(base, 1, max_dump_chunk_bytes));
      }
      if (why.empty() && pieces_ == Pieces::made) note(patched_pieces(pieces));
    }
  } catch (const Corruption& e) {
    lost_nodes_ = true;
    why = e.what();
  }
  return seen_.emplace(key, std::move(why)).first->second;
}

/// Why one of them is not what it should be.
std::string MapCheck::patched_pieces(const std::vector<StreamPiece>& pieces) {
  std::mutex mutex;
  std::string why;
  chunks_.crew().for_each(pieces.size(), [&](std::size_t i) {
    const StreamPiece& piece = pieces[i];
    if (!piece.patched()) return;
    std::vector<std::byte> bytes(piece.length);
    std::string problem;
    bool wrong = false;
    try {
      wrong = !read_patched_piece(chunks_, piece, bytes);
      if (wrong) problem = fmt::format("patch {} does not make {}", to_hex(piece.patch), to_hex(piece.id));
    } catch (const Corruption& e) {
      problem = e.what();
    }
    const std::scoped_lock lock(mutex);
    if (wrong) wrong_patches_.insert(piece.patch);
    if (why.empty()) why = problem;
  });
  return why;
}

void distrust_everywhere(ChunkStore& chunks, const std::set<ChunkId>& ids) {
  for (const ChunkId& id : ids)
    for (const Index::Location& copy : chunks.index().find(id)) {
      const std::vector<ChunkId> added = chunks.index().distrust(copy.pack, {&id, 1});
      if (!added.empty() && chunks.writable()) put_in_quarantine(chunks.store(), copy.pack, added);
    }
}

namespace {

/// What the pack was said to hold and does not: damaged records, and those that its scan has not found.
std::vector<ChunkId> lost_chunks(Index& index, const PackId& pack, const PackCheck& check) {
  std::set<ChunkId> lost(check.damaged.begin(), check.damaged.end());
  if (check.read && !check.problem.empty()) {
    std::set<ChunkId> seen(check.good.begin(), check.good.end());
    seen.insert(check.unreadable.begin(), check.unreadable.end());
    for (const ChunkId& chunk : index.chunks_of(pack))
      if (!seen.contains(chunk)) lost.insert(chunk);
  }
  return {lost.begin(), lost.end()};
}

void judge_pack(ChunkStore& chunks, const PackId& pack, const PackCheck& check, VerifyResult& result) {
  Index& index = chunks.index();
  ++result.packs_read;
  result.bytes_read += check.bytes;
  result.chunks_read += check.good.size();
  if (!check.problem.empty()) result.problems.push_back(check.problem);
  const std::string name = bytes_to_hex(pack.bytes);
  if (!check.unreadable.empty()) {
    // The disk may give them the next time: nothing that is written down for good.
    result.unreadable_chunks += check.unreadable.size();
    result.problems.push_back(fmt::format("pack {}: {} chunks could not be read", name, check.unreadable.size()));
  }
  const std::vector<ChunkId> lost = lost_chunks(index, pack, check);
  // What an earlier look took for damaged, and is not.
  const auto is_quarantined = [&](const ChunkId& chunk) { return index.in_quarantine(pack, chunk); };
  if (std::ranges::any_of(check.good, is_quarantined)) {
    index.trust(pack);
    if (chunks.writable() && chunks.store().may_remove()) clear_quarantine(chunks.store(), pack);
  }
  const std::vector<ChunkId> added = index.distrust(pack, lost);
  static_cast<void>(index.distrust(pack, check.unreadable));
  if (!lost.empty())
    result.problems.push_back(fmt::format("pack {}: {} of {} chunks are damaged", name, lost.size(),
                                          lost.size() + check.good.size() + check.unreadable.size()));
  if (added.empty()) return;
  result.damaged_chunks += added.size();
  if (chunks.writable()) put_in_quarantine(chunks.store(), pack, added);
}

}  // namespace

void read_packs(ChunkStore& chunks, const VerifyOptions& options, VerifyResult& result) {
  std::vector<Index::PackInfo> packs = chunks.index().packs();
  result.packs = packs.size();
  if (options.read_percent == 0) return;
  std::shuffle(packs.begin(), packs.end(), std::mt19937_64(std::random_device()()));
  packs.resize((packs.size() * options.read_percent + 99) / 100);
  std::uint64_t total = 0;
  for (const Index::PackInfo& pack : packs)
    total += pack.size;
  std::atomic<std::uint64_t> done{0};
  std::mutex mutex;
  chunks.crew().for_each(packs.size(), [&](std::size_t i) {
    const PackId& pack = packs[i].id;
    const PackCheck check =
        check_pack(chunks.store(), pack, chunks.repository(), chunks.keys(), [&](std::uint64_t bytes) {
          if (options.stop.stop_requested()) throw Interrupted("stopped while it read packs");
          if (options.progress) options.progress(done += bytes, total);
        });
    const std::scoped_lock lock(mutex);
    judge_pack(chunks, pack, check, result);
  });
}

}  // namespace stillpoint
