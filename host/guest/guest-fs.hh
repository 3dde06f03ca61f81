// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/guest/domain.hh"

#include <vector>

namespace stillpoint {

/// Of what a guest tells about its file systems, what can be true: absolute mount points without control characters,
/// bounded lengths, at most 1024 of them, no mount point twice. The rest is left out.
[[nodiscard]] std::vector<GuestFileSystem> believable(std::vector<GuestFileSystem> told);

}  // namespace stillpoint
