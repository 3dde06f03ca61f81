// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace stillpoint {

/// A disk that is read with a queue of requests in flight, and that may know what changed.
class QueuedReader : public BlockReader {
 public:
  /// Starts filling `buffer`, which stays where it is until next_read() returned `tag` or the reader was abandoned or
  /// destroyed. Any length; throws CaptureError.
  virtual void start_read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) = 0;

  /// The tag of a read that is complete, in any order; waits for one at most `patience`. Throws CaptureError when a
  /// read failed or the source no longer answers.
  [[nodiscard]] virtual std::optional<std::uint64_t> next_read(std::chrono::milliseconds patience) = 0;

  /// How many chunks are worth being read at once: what more would gain nothing, and crowd the storage that the guest
  /// uses too.
  [[nodiscard]] virtual std::size_t chunks_in_flight() const { return 16; }

  /// Reads started and not yet returned by next_read().
  [[nodiscard]] virtual std::size_t reads_in_flight() const = 0;

  /// Lets go of every read in flight: their buffers are not written to from now on, and the reader is of no more use.
  virtual void abandon() noexcept = 0;

  [[nodiscard]] virtual bool has_dirty_bitmap() const { return false; }
  /// As extents(), of what changed: `data` means changed.
  [[nodiscard]] virtual std::vector<Extent> dirty_extents(std::uint64_t offset, std::uint64_t length) {
    return {{offset, length, true}};
  }
};

}  // namespace stillpoint
