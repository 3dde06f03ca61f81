// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/deleter.hh"
#include "host/guest/domain-xml.hh"
#include "host/guest/domain.hh"

#include <libvirt/libvirt.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

using CheckpointPtr = CPtr<virDomainCheckpoint, virDomainCheckpointFree>;

/// The disks of a checkpoint, or nullopt when libvirt does not know it. Of a running domain, also whether each bitmap
/// is usable. Throws Unreachable, Locked, CaptureError.
[[nodiscard]] std::optional<std::vector<CheckpointDisk>> checkpoint_disks(const Domain& domain,
                                                                          const std::string& name);

/// Removes one with its bitmaps; fine when there is none of that name. Where the bitmaps cannot be removed (broken,
/// image replaced), libvirt's record of it goes alone. False, and a line in the log, when even that fails.
bool remove_checkpoint(const Domain& domain, const std::string& name);

/// Names of the domain's checkpoints that begin with `prefix`.
[[nodiscard]] std::vector<std::string> checkpoints_named(const Domain& domain, std::string_view prefix);

}  // namespace stillpoint
