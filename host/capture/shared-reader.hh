// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"

#include <mutex>
#include <vector>

namespace stillpoint {

/// Another reader, for several threads: one at a time is let to it.
class SharedReader : public BlockReader {
 public:
  explicit SharedReader(BlockReader& reader) : reader_(reader) {}

  [[nodiscard]] std::uint64_t size() const override { return reader_.size(); }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override {
    const std::lock_guard lock(mutex_);
    reader_.pread(buffer, offset);
  }
  void pread_many(std::span<const Request> requests) override {
    const std::lock_guard lock(mutex_);
    reader_.pread_many(requests);
  }
  [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) override {
    const std::lock_guard lock(mutex_);
    return reader_.extents(offset, length);
  }

 private:
  BlockReader& reader_;
  std::mutex mutex_;
};

}  // namespace stillpoint
