// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

namespace stillpoint {

struct VerifyOptions {
  /// Share of the packs, chosen at random, whose every byte is read; 0: none.
  unsigned read_percent = 0;
  std::stop_token stop;
  /// Called from several threads: bytes of packs read, and to be read.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
};

/// A still point that cannot be given back as a whole.
struct DamagedStillPoint {
  std::string name;
  std::vector<std::string> reasons;
};

struct VerifyResult {
  std::uint64_t still_points = 0;
  std::uint64_t packs = 0;
  std::uint64_t packs_read = 0;
  std::uint64_t bytes_read = 0;         ///< of packs
  std::uint64_t chunks_read = 0;        ///< that match their ids
  std::uint64_t covered = 0;            ///< bytes of the disks and dumps whose maps were followed
  std::uint64_t unreadable_chunks = 0;  ///< the store failed to read them
  std::uint64_t damaged_chunks = 0;     ///< put in quarantine now
  std::vector<std::string> problems;    ///< damage that costs nothing so far
  std::vector<DamagedStillPoint> damaged;
};

}  // namespace stillpoint
