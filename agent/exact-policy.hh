// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/report.hh"

#include <span>

namespace stillpoint {

/// For agent.conf's exact=require: throws QuiesceError that names the first database whose dump is not exact.
void refuse_unless_exact(std::span<const DatabaseReport> databases);

}  // namespace stillpoint
