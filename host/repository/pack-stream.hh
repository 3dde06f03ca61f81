// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/index.hh"
#include "host/repository/pack.hh"

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

namespace stillpoint {

/// Appends records to one pack after the other, from any thread. A full pack is made durable by a thread of its own,
/// so that the workers do not wait for the disk.
class PackStream {
 public:
  PackStream(Store& store, std::span<const std::byte, 16> repository, Index& index, bool sealed);
  PackStream(const PackStream&) = delete;
  PackStream& operator=(const PackStream&) = delete;
  /// What is not sealed is dropped.
  ~PackStream();

  /// `record`: encoded header, stored bytes, padding. Tells the index. Throws what stopped the stream.
  void append(const RecordHeader& header, std::span<const std::byte> record);

  /// Makes everything appended so far durable. Throws StorageError.
  void flush();

 private:
  struct Open {
    PackWriter writer;
    std::uint32_t number;
  };

  void hand_to_sealer();
  void seal_packs();

  Store& store_;
  std::array<std::byte, 16> repository_;
  Index& index_;
  bool sealed_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unique_ptr<Open> current_;
  std::deque<std::unique_ptr<Open>> full_;  ///< the first is being sealed
  std::exception_ptr failure_;
  bool ending_ = false;
  std::jthread sealer_;
};

}  // namespace stillpoint
