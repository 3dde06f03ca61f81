// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/tree-filter.hh"
#include "host/capture/tree-writer.hh"
#include "host/commands/guest-files.hh"
#include "host/restore/tar-writer.hh"

#include <filesystem>
#include <string>

namespace stillpoint {

/// The path that `cp` makes for a target: below it when it is a directory that exists, else itself. Throws UsageError
/// when that is there already, or has no name (the root of a file system into a directory).
[[nodiscard]] std::filesystem::path copy_target(const GuestFiles::Place& place, const std::filesystem::path& target);

/// Copies what was found, and all below it in its file system, to `target`, which must not exist: with its metadata,
/// links as links, without what `filter` leaves out of it. What is not whole never has the name. Throws what reading
/// and writing throw, Interrupted.
TreeCounts copy_out(GuestFiles& files, const GuestFiles::Place& place, const std::filesystem::path& target,
                    const TreeFilter& filter, CaptureProgress& progress);

/// The same as an archive, to `output`; `name`: what it is called there. Throws what reading and `output` throw.
TarCounts archive_out(GuestFiles& files, const GuestFiles::Place& place, const std::string& name,
                      const TreeFilter& filter, const TarWriter::Output& output, CaptureProgress& progress);

}  // namespace stillpoint
