// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/rate-limit.hh"
#include "host/capture/queued-reader.hh"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace stillpoint {

/// Another reader, no faster than a limit lets it be. Throws Interrupted when the limit's owner is told to stop.
class LimitedReader : public QueuedReader {
 public:
  LimitedReader(std::unique_ptr<QueuedReader> reader, std::shared_ptr<RateLimit> limit)
      : reader_(std::move(reader)), limit_(std::move(limit)) {}

  [[nodiscard]] std::uint64_t size() const override { return reader_->size(); }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override {
    limit_->take(buffer.size());
    reader_->pread(buffer, offset);
  }
  void pread_many(std::span<const Request> requests) override {
    std::uint64_t bytes = 0;
    for (const Request& request : requests)
      bytes += request.buffer.size();
    limit_->take(bytes);
    reader_->pread_many(requests);
  }
  [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) override {
    return reader_->extents(offset, length);
  }
  void start_read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) override {
    limit_->take(buffer.size());
    reader_->start_read(buffer, offset, tag);
  }
  [[nodiscard]] std::optional<std::uint64_t> next_read(std::chrono::milliseconds patience) override {
    return reader_->next_read(patience);
  }
  [[nodiscard]] std::size_t reads_in_flight() const override { return reader_->reads_in_flight(); }
  void abandon() noexcept override { reader_->abandon(); }
  [[nodiscard]] bool has_dirty_bitmap() const override { return reader_->has_dirty_bitmap(); }
  [[nodiscard]] std::vector<Extent> dirty_extents(std::uint64_t offset, std::uint64_t length) override {
    return reader_->dirty_extents(offset, length);
  }

 private:
  std::unique_ptr<QueuedReader> reader_;
  std::shared_ptr<RateLimit> limit_;
};

}  // namespace stillpoint
