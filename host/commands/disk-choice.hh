// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/manifest.hh"

#include <string_view>

namespace stillpoint {

/// The disk of that name, or the only one when none is named. Throws NotFound, UsageError, which name those that are
/// there.
[[nodiscard]] const DiskRecord& choose_disk(const Manifest& manifest, std::string_view target);

}  // namespace stillpoint
