// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/manifest.hh"

#include <string_view>

namespace stillpoint {

/// What the agent reported of the database with that dump; null when it did not.
[[nodiscard]] const DatabaseReport* database_of(const Manifest& manifest, std::string_view dump);

/// The dump named by `text`: its whole name ("postgresql/15-main/app"), or its database's own name ("app") when only
/// one has it. Throws NotFound for none and for one that failed (with the reason), UsageError for several.
[[nodiscard]] const DumpRecord& choose_dump(const Manifest& manifest, std::string_view text);

}  // namespace stillpoint
