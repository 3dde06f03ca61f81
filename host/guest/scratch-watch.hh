// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/guest/domain.hh"

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>

namespace stillpoint {

/// Free bytes of scratch space under which a backup job is aborted: 5 % of the file system, at least 64 MiB, at most
/// 512 MiB. QEMU pauses the guest when a copy-before-write finds no space; at ten looks a second a guest would have to
/// overwrite 5 GB/s to be faster than this.
[[nodiscard]] std::uint64_t scratch_floor(std::uint64_t file_system_bytes) noexcept;

/// Free bytes and size of the file system that holds `directory`. Throws CaptureError.
struct Space {
  std::uint64_t free = 0;
  std::uint64_t size = 0;
};
[[nodiscard]] Space space_of(const std::filesystem::path& directory);

/// Aborts the domain's backup job before its scratch space runs out, so that the guest never feels it.
class ScratchWatch {
 public:
  ScratchWatch(const Domain& domain, const std::filesystem::path& directory);
  ScratchWatch(const ScratchWatch&) = delete;
  ScratchWatch& operator=(const ScratchWatch&) = delete;
  ~ScratchWatch();

  /// Why the job was aborted; empty when it was not.
  [[nodiscard]] std::string verdict() const;

 private:
  void watch();
  void abort_job(const Space& space);

  const Domain domain_;
  const std::filesystem::path directory_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool stopped_ = false;
  std::string verdict_;
  std::thread thread_;
};

}  // namespace stillpoint
