// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/manifest.hh"

#include <cstdint>
#include <string>

namespace stillpoint {

/// Sums over a still point.
struct Totals {
  std::uint64_t databases = 0;  ///< that a dump or an entry of the report speaks of
  std::uint64_t databases_exact = 0;
  std::uint64_t disk_bytes = 0;  ///< of all disks, as the guest sees them
  std::uint64_t read = 0;
  std::uint64_t changed = 0;
  std::uint64_t stored = 0;  ///< disks, dumps and the domain's state
  bool complete = true;      ///< no dump and no tree failed
};

[[nodiscard]] Totals totals_of(const Manifest& manifest);

/// Everything of the manifest for a person to read; printable.
[[nodiscard]] std::string describe(const Manifest& manifest);

/// One paragraph for the end of a backup: name, grade and why, window, disks, what failed; printable.
[[nodiscard]] std::string summarise(const Manifest& manifest);

}  // namespace stillpoint
