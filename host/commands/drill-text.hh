// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/json.hh"
#include "host/repository/drill-record.hh"
#include "host/repository/repository.hh"

#include <optional>
#include <string>

namespace stillpoint {

/// The record of a drill of this still point; nothing, with a warning, when it cannot be read or is of another one: a
/// still point is shown all the same.
[[nodiscard]] std::optional<DrillRecord> read_drill(Repository& repository, const Manifest& manifest,
                                                    const std::string& object);

/// "passed 2026-11-29", for a table.
[[nodiscard]] std::string drill_summary(const DrillRecord& record);
[[nodiscard]] Json drill_summary_json(const DrillRecord& record);

/// All of it: what it says for itself, then a line for each step.
[[nodiscard]] std::string describe(const DrillRecord& record);

}  // namespace stillpoint
