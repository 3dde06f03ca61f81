// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/restore/comparable-dump.hh"

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>

namespace stillpoint {

/// Compares a stored dump with another one while that arrives: neither is kept. Bounded in memory.
class DumpComparison {
 public:
  using Consumer = std::function<void(std::span<const std::byte>)>;
  /// `read`: hands the stored dump to the consumer, which may throw to stop; called in a thread of its own.
  explicit DumpComparison(std::function<void(const Consumer&)> read);
  DumpComparison(const DumpComparison&) = delete;
  DumpComparison& operator=(const DumpComparison&) = delete;
  /// Stops the reading.
  ~DumpComparison();

  /// Bytes of the other dump.
  void write(std::span<const std::byte> bytes);
  /// After its last byte: where they differ first, in words; empty when they are equal. Throws what reading the stored
  /// dump threw.
  [[nodiscard]] std::string finish();
  /// Bytes of the other dump.
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

 private:
  void read_stored(const std::function<void(const Consumer&)>& read);
  void push(std::string_view bytes);
  bool pull();
  void compare(std::string_view bytes);
  void differ(std::string_view here);
  void stop() noexcept;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string queue_;     ///< of the stored dump
  bool ended_ = false;    ///< nothing more comes into the queue
  bool stopped_ = false;  ///< nobody takes anything from it any more
  std::exception_ptr failure_;

  std::string stored_;  ///< taken from the queue
  std::size_t at_ = 0;  ///< so much of it is compared
  std::string line_;    ///< the beginning of the present line, equal in both
  std::uint64_t lines_ = 1;
  std::uint64_t bytes_ = 0;
  std::string difference_;
  std::exception_ptr broken_;  ///< the stored dump cannot be read
  ComparableDump other_;
  std::jthread reader_;
};

}  // namespace stillpoint
