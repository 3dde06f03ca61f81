// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/commands/command.hh"
#include "host/repository/manifest.hh"
#include "host/restore/disk-server.hh"
#include "host/restore/state-restore.hh"

#include <string>
#include <utility>
#include <vector>

namespace stillpoint {

/// Opens the repository once, so that what is wrong is said well, for a server that opens it again: what it needs for
/// that, without a disk, and the still point; `state`, when it is not null, gets the domain's. Throws what opening it
/// throws.
[[nodiscard]] std::pair<ServedDisk, Manifest> open_to_serve(const Invocation& invocation, const std::string& name,
                                                            std::vector<LoadedState>* state = nullptr);

}  // namespace stillpoint
