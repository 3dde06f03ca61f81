// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <string>
#include <string_view>

namespace stillpoint {

/// A file of a still point as it is written on the command line:
///
///     web1@2026-11-22T08:20:11Z:/etc/hosts    by its path in the guest, through the mount points
///     web1@latest:vda1:/etc/hosts             by its path in one file system
///     web1@latest                             the still point's file systems
///
/// Without an "@", what stands before the first ":" is the domain.
struct FileName {
  std::string still_point;
  std::string file_system;  ///< "vda1"; empty: through the mount points
  std::string path;         ///< begins with "/"; empty: the file systems
};

/// Throws UsageError.
[[nodiscard]] FileName parse_file_name(std::string_view text);

}  // namespace stillpoint
