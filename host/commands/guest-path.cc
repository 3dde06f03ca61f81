// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/guest-path.hh"

#include <algorithm>

namespace stillpoint {

std::deque<std::string> path_parts(std::string_view path) {
  std::deque<std::string> parts;
  while (!path.empty()) {
    const std::size_t end = std::min(path.find('/'), path.size());
    const std::string_view part = path.substr(0, end);
    if (!part.empty() && part != ".") parts.emplace_back(part);
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return parts;
}

std::string joined_path(const std::vector<std::string>& parts) {
  std::string path;
  for (const std::string& part : parts)
    path += "/" + part;
  return path.empty() ? "/" : path;
}

std::optional<std::string> path_below(std::string_view mount_point, std::string_view path) {
  if (mount_point.empty()) return std::nullopt;
  while (mount_point.ends_with('/'))
    mount_point.remove_suffix(1);
  if (!path.starts_with(mount_point)) return std::nullopt;
  path.remove_prefix(mount_point.size());
  if (path.empty()) return std::string();
  if (path.front() != '/') return std::nullopt;
  return std::string(path.substr(1));
}

}  // namespace stillpoint
