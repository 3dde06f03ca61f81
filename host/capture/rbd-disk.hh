// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/queued-reader.hh"
#include "host/ceph/rbd.hh"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// A Ceph RBD image at one of its snapshots, and what changed since another. One thread at a time.
class RbdDisk : public QueuedReader {
 public:
  /// The snapshot whose changes are wanted.
  struct Base {
    std::string snapshot;
    /// False where the image may have been rolled back to an older snapshot: object maps are wrong then, and every
    /// object is asked for its own history.
    bool trust_object_maps = true;
    std::vector<RbdBase::Range> besides{};  ///< counts as changed, whatever the comparison says
  };

  /// `snapshot`: its id; 0 for the image itself, which nobody writes to then. Throws CaptureError.
  RbdDisk(std::unique_ptr<RbdImage> image, std::uint64_t snapshot, std::optional<Base> base = std::nullopt);
  ~RbdDisk() override;

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override;
  void pread_many(std::span<const Request> requests) override;
  /// What was ever written, without holes inside of objects. With a base, what was discarded since it.
  [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) override;

  void start_read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) override;
  [[nodiscard]] std::optional<std::uint64_t> next_read(std::chrono::milliseconds patience) override;
  /// They go eight at a time, over the network: half as many would leave too few requests in flight.
  [[nodiscard]] std::size_t chunks_in_flight() const override { return 64; }
  [[nodiscard]] std::size_t reads_in_flight() const override { return image_->in_flight(); }
  void abandon() noexcept override { image_->drain(); }

  [[nodiscard]] bool has_dirty_bitmap() const override { return base_.has_value(); }
  [[nodiscard]] std::vector<Extent> dirty_extents(std::uint64_t offset, std::uint64_t length) override;

 private:
  struct Range {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };

  void check_range(std::uint64_t offset, std::uint64_t length) const;
  [[nodiscard]] Range candidate(std::uint64_t offset);
  void survey(std::uint64_t offset);
  void learn_changes(std::uint64_t offset, std::uint64_t end);
  [[nodiscard]] std::vector<Extent> tell(std::uint64_t offset, std::uint64_t length, bool discarded_is_data);

  std::unique_ptr<RbdImage> image_;
  std::optional<Base> base_;
  std::uint64_t size_ = 0;
  std::uint64_t object_size_ = 0;
  bool has_object_maps_ = false;
  Range surveyed_;                 ///< where the candidates are known
  std::vector<Range> candidates_;  ///< ranges of objects that may have changed, in ascending order
  Range known_;                    ///< where the changes are known
  std::vector<RbdChange> changes_;
};

}  // namespace stillpoint
