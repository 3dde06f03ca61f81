// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/report.hh"

#include <filesystem>

namespace stillpoint {

/// Durably writes the report where the block snapshot will hold it. Called inside the barrier, before the freeze.
/// Throws StorageError.
void write_report(const std::filesystem::path& path, const Report& report);

/// The report as it fits into a control message and within the bounds of parse_report(): what does not fit of the
/// sequences is left out, and named as not covered.
[[nodiscard]] Report fitting(Report report);

}  // namespace stillpoint
