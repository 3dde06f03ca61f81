// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/disk-reader.hh"

#include "host/repository/sha256.hh"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace stillpoint {

namespace {

/// Answers of extents() are cut after so many, and after so many nodes read.
constexpr std::size_t max_extents = 4096;
constexpr std::size_t max_leaves = 64;

}  // namespace

MappedDiskReader::MappedDiskReader(std::shared_ptr<ChunkStore> chunks, const DiskMap& map, std::size_t cache_bytes)
    : chunks_(std::move(chunks)),
      tree_(*chunks_, map),
      most_kept_(std::max<std::size_t>(2, cache_bytes / chunks_->chunk_bytes())) {}

void MappedDiskReader::check_range(std::uint64_t offset, std::uint64_t length) const {
  if (offset > size() || length > size() - offset) throw std::out_of_range("a range behind the end of the disk");
}

void MappedDiskReader::pread(std::span<std::byte> buffer, std::uint64_t offset) {
  const Request request{offset, buffer};
  pread_many({&request, 1});
}

void MappedDiskReader::pread_many(std::span<const Request> requests) {
  std::vector<Piece> pieces;
  for (const Request& request : requests)
    add_pieces(request, pieces);
  const std::size_t at_once = sha256::available() ? 2 : 1;
  chunks_->crew().for_each((pieces.size() + at_once - 1) / at_once, [&](std::size_t i) {
    read_pieces(std::span(pieces).subspan(at_once * i, std::min(at_once, pieces.size() - at_once * i)));
  });
}

void MappedDiskReader::add_pieces(const Request& request, std::vector<Piece>& pieces) const {
  check_range(request.offset, request.buffer.size());
  const std::uint32_t chunk_bytes = chunks_->chunk_bytes();
  std::uint64_t offset = request.offset;
  std::span<std::byte> rest = request.buffer;
  while (!rest.empty()) {
    const auto from = static_cast<std::uint32_t>(offset % chunk_bytes);
    const std::size_t length = std::min<std::size_t>(rest.size(), chunk_bytes - from);
    pieces.push_back({offset / chunk_bytes, from, rest.first(length)});
    rest = rest.subspan(length);
    offset += length;
  }
}

void MappedDiskReader::read_pieces(std::span<const Piece> pieces) {
  std::vector<ChunkStore::Wanted> whole;
  for (const Piece& piece : pieces) {
    const DiskTree::Node leaf = tree_.leaf(piece.chunk / map_fanout);
    const std::size_t place = piece.chunk % map_fanout;
    if (!leaf || is_zero_chunk(leaf->ids[place]))
      std::memset(piece.buffer.data(), 0, piece.buffer.size());
    else if (piece.buffer.size() != tree_.shape().chunk_length(piece.chunk))
      read_part(*leaf, piece);
    else if (leaf->patch_at(place) != nullptr)
      tree_.read_chunk(*leaf, place, piece.buffer);
    else
      whole.push_back({leaf->ids[place], piece.buffer});
  }
  if (whole.size() == 2)
    chunks_->get(whole[0], whole[1]);
  else if (!whole.empty())
    chunks_->get(whole[0].id, whole[0].plain);
}

void MappedDiskReader::read_part(const DiskNode& leaf, const Piece& piece) {
  Content content = kept(piece.chunk);
  if (!content) content = keep(leaf, piece.chunk);
  std::memcpy(piece.buffer.data(), content->data() + piece.from, piece.buffer.size());
}

MappedDiskReader::Content MappedDiskReader::kept(std::uint64_t chunk) {
  const std::scoped_lock lock(mutex_);
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const auto& item) { return item.first == chunk; });
  if (found == kept_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found);
  return kept_.front().second;
}

MappedDiskReader::Content MappedDiskReader::keep(const DiskNode& leaf, std::uint64_t chunk) {
  auto bytes = std::make_shared<std::vector<std::byte>>(tree_.shape().chunk_length(chunk));
  tree_.read_chunk(leaf, chunk % map_fanout, *bytes);
  const std::scoped_lock lock(mutex_);
  kept_.emplace_front(chunk, bytes);
  if (kept_.size() > most_kept_) kept_.pop_back();
  return bytes;
}

std::vector<Extent> MappedDiskReader::extents(std::uint64_t offset, std::uint64_t length) {
  check_range(offset, length);
  std::vector<Extent> extents;
  const std::uint32_t chunk_bytes = chunks_->chunk_bytes();
  const std::uint64_t end = offset + length;
  std::size_t leaves = 0;
  const auto add = [&](std::uint64_t until, bool data) {
    until = std::min(until, end);
    if (until <= offset) return;
    if (!extents.empty() && extents.back().data == data)
      extents.back().length += until - offset;
    else
      extents.push_back({offset, until - offset, data});
    offset = until;
  };
  while (offset < end && extents.size() < max_extents && leaves < max_leaves) {
    const std::uint64_t chunk = offset / chunk_bytes;
    const std::uint64_t data = tree_.skip_zeros(chunk);
    add(data >= tree_.shape().chunks() ? end : data * chunk_bytes, false);
    if (offset >= end) break;
    const DiskTree::Node leaf = tree_.leaf(offset / chunk_bytes / map_fanout);
    ++leaves;
    for (std::uint64_t at = offset / chunk_bytes; leaf && offset < end; ++at) {
      add((at + 1) * chunk_bytes, !is_zero_chunk(leaf->ids[at % map_fanout]));
      if ((at + 1) % map_fanout == 0) break;
    }
  }
  return extents;
}

}  // namespace stillpoint
