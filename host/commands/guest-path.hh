// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// The parts of a path, without empty ones and "."; ".." is kept, because what it means depends on symbolic links.
[[nodiscard]] std::deque<std::string> path_parts(std::string_view path);

/// "/etc/hosts"; "/" for none.
[[nodiscard]] std::string joined_path(const std::vector<std::string>& parts);

/// What of `path` lies below the mount point, without leading slash: "log" of "/var/log" below "/var". Nothing when it
/// lies elsewhere, or the mount point is unknown (empty).
[[nodiscard]] std::optional<std::string> path_below(std::string_view mount_point, std::string_view path);

}  // namespace stillpoint
