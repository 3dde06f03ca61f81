// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/restore/drill.hh"

#include <stop_token>

namespace stillpoint {

/// Recovers the databases of a still point without its guest: their data directories are copied out, and servers of
/// this host, kept apart, recover them. What this host cannot recover is skipped; a still point with databases of which
/// none could be recovered fails. Throws as drill_by_boot().
[[nodiscard]] DrillRecord drill_offline(Repository& repository, const Manifest& manifest, const ServedDisk& access,
                                        const DrillRequest& request, const DrillObserver& observer,
                                        const std::stop_token& stop);

}  // namespace stillpoint
