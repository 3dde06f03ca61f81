// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/commands/backup-request.hh"
#include "host/repository/manifest.hh"
#include "host/repository/repository.hh"

#include <stop_token>

namespace stillpoint {

class Progress;

/// Takes one still point and commits it; the repository is open for writing. Throws with the guest thawed, the backup
/// job ended and nothing listed.
[[nodiscard]] Manifest take_still_point(const BackupRequest& request, Repository& repository, Progress& progress,
                                        const std::stop_token& stop);

}  // namespace stillpoint
