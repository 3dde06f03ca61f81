// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"
#include "host/capture/queued-reader.hh"

#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// A raw image, a file or a block device, that no guest uses. Reads are announced to the kernel when they are started
/// and done when they are asked for, so that a queue of them is on its way from the disk. One thread at a time.
class RawImage : public QueuedReader {
 public:
  /// Throws CaptureError, UsageError (no such file).
  explicit RawImage(const std::filesystem::path& path);

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override;
  /// What the file system tells of holes; a block device is all data.
  [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) override;

  void start_read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) override;
  [[nodiscard]] std::optional<std::uint64_t> next_read(std::chrono::milliseconds patience) override;
  [[nodiscard]] std::size_t reads_in_flight() const override { return started_.size(); }
  void abandon() noexcept override { started_.clear(); }

 private:
  struct Read {
    std::span<std::byte> buffer;
    std::uint64_t offset = 0;
    std::uint64_t tag = 0;
  };

  void check_range(std::uint64_t offset, std::uint64_t length) const;

  std::string name_;
  UniqueFd fd_;
  std::uint64_t size_ = 0;  ///< bytes
  bool tells_holes_ = false;
  std::deque<Read> started_;
};

}  // namespace stillpoint
