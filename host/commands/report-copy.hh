// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/report.hh"
#include "host/commands/capture-levels.hh"
#include "host/guest/domain.hh"

#include <string>
#include <vector>

namespace stillpoint {

/// Whether the report that the agent wrote inside the barrier lies in the block snapshot: what was written before the
/// instant must be there, whatever anybody says.
struct ReportCopy {
  enum class State {
    present,
    absent,   ///< it should be there, and is not, or is another's
    unknown,  ///< its file system cannot be read file by file
  };
  State state = State::unknown;
  std::string reason;  ///< why it is not present
};

/// Looks for the copy of `report` in the file system that holds its path. Throws nothing for the guest's sake;
/// CaptureError when a disk cannot be read at all.
[[nodiscard]] ReportCopy find_report_copy(const Report& report, const std::vector<DiskSource>& disks,
                                          const std::vector<GuestFileSystem>& mounted);

}  // namespace stillpoint
