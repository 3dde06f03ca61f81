// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// A small file of the hypervisor that a running domain may write to.
struct StateFile {
  std::filesystem::path path;
  std::string owner;    ///< the user's name; empty when the number has none
  std::string content;  ///< of one moment
};

/// Reads it as it was at one moment: again, while it is written to. Never follows a link in its place, nor takes
/// anything but a regular file: whoever runs the guest may put it there. Nothing when there is none. Throws
/// CaptureError: longer than `limit` bytes, written to all the time, unreadable.
[[nodiscard]] std::optional<StateFile> read_state_file(const std::filesystem::path& path, std::uint64_t limit);

/// The same for all files of a directory whose names begin and end so, at most `most`; empty when there is no
/// directory.
[[nodiscard]] std::vector<StateFile> read_state_files(const std::filesystem::path& directory, const std::string& prefix,
                                                      const std::string& suffix, std::size_t most, std::uint64_t limit);

}  // namespace stillpoint
