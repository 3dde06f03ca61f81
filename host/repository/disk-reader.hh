// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "host/repository/chunk-store.hh"
#include "host/repository/disk-tree.hh"

#include <list>
#include <memory>
#include <mutex>
#include <vector>

namespace stillpoint {

/// A disk of the repository; every chunk is checked against its id. May be used by several threads.
class MappedDiskReader : public BlockReader {
 public:
  MappedDiskReader(std::shared_ptr<ChunkStore> chunks, const DiskMap& map, std::size_t cache_bytes);

  [[nodiscard]] std::uint64_t size() const override { return tree_.shape().size(); }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override;
  void pread_many(std::span<const Request> requests) override;
  [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) override;

 private:
  using Content = std::shared_ptr<const std::vector<std::byte>>;
  struct Piece {
    std::uint64_t chunk;
    std::uint32_t from;  ///< first byte of the chunk that is wanted
    std::span<std::byte> buffer;
  };

  void check_range(std::uint64_t offset, std::uint64_t length) const;
  void add_pieces(const Request& request, std::vector<Piece>& pieces) const;
  void read_pieces(std::span<const Piece> pieces);  ///< at most two
  void read_part(const DiskNode& leaf, const Piece& piece);
  [[nodiscard]] Content kept(std::uint64_t chunk);
  [[nodiscard]] Content keep(const DiskNode& leaf, std::uint64_t chunk);

  std::shared_ptr<ChunkStore> chunks_;
  DiskTree tree_;
  std::size_t most_kept_;  ///< chunks
  std::mutex mutex_;
  std::list<std::pair<std::uint64_t, Content>> kept_;  ///< chunks read in part, most recently used first
};

}  // namespace stillpoint
