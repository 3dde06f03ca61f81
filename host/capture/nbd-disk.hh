// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/queued-reader.hh"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A disk behind NBD, read with several requests in flight. One thread at a time. A failed request or a server that
/// falls silent ends it: every later call throws CaptureError.
class NbdDisk : public QueuedReader {
 public:
  /// `dirty_bitmap`: a metadata context of the export ("qemu:dirty-bitmap:..."), or empty. Throws CaptureError, within
  /// a time limit; `answer_limit` bounds the server's silence while something is asked of it.
  NbdDisk(const std::filesystem::path& socket, std::string_view export_name, std::string_view dirty_bitmap = {},
          std::chrono::milliseconds answer_limit = std::chrono::seconds(60));
  /// An image that no guest uses, through a read-only qemu-nbd of our own. Throws CaptureError, UsageError (no such
  /// file).
  static NbdDisk image(const std::filesystem::path& path, std::string_view format);

  NbdDisk(NbdDisk&&) noexcept;
  NbdDisk& operator=(NbdDisk&&) noexcept;
  ~NbdDisk() override;

  [[nodiscard]] std::uint64_t size() const override;
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override;
  void pread_many(std::span<const Request> requests) override;
  /// base:allocation; data where the server does not tell.
  [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) override;

  void start_read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) override;
  [[nodiscard]] std::optional<std::uint64_t> next_read(std::chrono::milliseconds patience) override;
  [[nodiscard]] std::size_t reads_in_flight() const override;
  void abandon() noexcept override;

  [[nodiscard]] bool has_dirty_bitmap() const override;
  [[nodiscard]] std::vector<Extent> dirty_extents(std::uint64_t offset, std::uint64_t length) override;

 private:
  class Session;
  explicit NbdDisk(std::unique_ptr<Session> session) noexcept;
  std::unique_ptr<Session> session_;
};

}  // namespace stillpoint
