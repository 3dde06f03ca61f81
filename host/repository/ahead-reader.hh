// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "host/repository/crew.hh"
#include "host/repository/pending-jobs.hh"
#include "host/repository/shared-cache.hh"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

namespace stillpoint {

/// Another reader for whom reads in small steps from its beginning to its end: it keeps what was read, in pieces, and
/// reads the next ones meanwhile. May be used by several threads when the other one may.
class AheadReader : public BlockReader {
 public:
  /// `piece_bytes`: what the other reader reads best at once. `cache_bytes`: how much is kept, read ahead included.
  /// The crew outlives it.
  AheadReader(std::unique_ptr<BlockReader> blocks, Crew& crew, std::uint32_t piece_bytes, std::size_t cache_bytes);
  AheadReader(const AheadReader&) = delete;
  AheadReader& operator=(const AheadReader&) = delete;
  ~AheadReader() override;

  [[nodiscard]] std::uint64_t size() const override { return blocks_->size(); }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override;
  [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) override {
    return blocks_->extents(offset, length);
  }

 private:
  using Piece = const std::vector<std::byte>;
  class ReadJob;

  [[nodiscard]] std::shared_ptr<Piece> piece(std::uint64_t number);
  void look_ahead(std::uint64_t number, std::uint64_t last);
  [[nodiscard]] bool follows(std::uint64_t number);

  std::unique_ptr<BlockReader> blocks_;
  Crew& crew_;
  std::uint32_t piece_bytes_;
  std::uint64_t pieces_;
  std::uint64_t most_ahead_;  ///< pieces
  SharedCache<std::uint64_t, Piece> cache_;
  std::mutex mutex_;
  std::array<std::uint64_t, 16> recent_;  ///< the last pieces of reads, oldest replaced first
  std::size_t oldest_ = 0;
  std::set<std::uint64_t> posted_;  ///< pieces that the crew has been asked for, and not yet read
  PendingJobs jobs_;
};

}  // namespace stillpoint
