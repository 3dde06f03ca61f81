// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

namespace stillpoint {

struct ReclaimOptions {
  /// A pack of which less than this share is still needed is written anew and deleted.
  unsigned least_live_percent = 50;
  /// For running backups and restores that began before: what only they may need is deleted when they have ended.
  std::chrono::seconds patience{0};
  bool dry_run = false;
  std::vector<std::string> without;  ///< still points that count as deleted already, for a dry run
  std::stop_token stop;
  std::function<void(std::string_view text)> note = [](std::string_view) {};
};

struct ReclaimResult {
  std::uint64_t packs = 0;             ///< that there were
  std::uint64_t packs_deleted = 0;     ///< or would be
  std::uint64_t bytes_deleted = 0;     ///< of those
  std::uint64_t bytes_rewritten = 0;   ///< of them, because they were still needed
  std::uint64_t packs_kept = 0;        ///< because they, or something that is needed, cannot be read: see verify
  std::uint64_t packs_waiting = 0;     ///< doomed, to be deleted by the next prune
  std::vector<std::string> waits_for;  ///< who may still need them
  std::vector<std::string> damaged;    ///< still points of which something is missing; what they have is kept
};

}  // namespace stillpoint
