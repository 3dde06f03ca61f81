// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/guest-fs.hh"

#include <algorithm>
#include <set>
#include <string_view>

namespace stillpoint {

namespace {

constexpr std::size_t most_file_systems = 1024;
constexpr std::size_t longest_mount_point = 4096;
constexpr std::size_t longest_name = 255;
constexpr std::size_t most_targets = 64;

bool is_printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 0x20 && byte != 0x7f;
  });
}

/// A path that names what it says: no "." or ".." that could lead elsewhere once it is joined to another.
bool is_mount_point(std::string_view path) {
  if (path.empty() || path.front() != '/' || path.size() > longest_mount_point || !is_printable(path)) return false;
  while (!path.empty()) {
    path.remove_prefix(1);
    const std::size_t slash = std::min(path.find('/'), path.size());
    const std::string_view part = path.substr(0, slash);
    if (part == "." || part == "..") return false;
    path.remove_prefix(slash);
  }
  return true;
}

bool is_name(std::string_view text) {
  return text.size() <= longest_name && is_printable(text);
}

}  // namespace

std::vector<GuestFileSystem> believable(std::vector<GuestFileSystem> told) {
  std::vector<GuestFileSystem> kept;
  std::set<std::string> mount_points;
  for (GuestFileSystem& fs : told) {
    if (kept.size() >= most_file_systems) break;
    if (!is_mount_point(fs.mount_point) || !is_name(fs.device) || !is_name(fs.type)) continue;
    if (fs.targets.size() > most_targets || !std::all_of(fs.targets.begin(), fs.targets.end(), is_name)) continue;
    if (!mount_points.insert(fs.mount_point).second) continue;
    kept.push_back(std::move(fs));
  }
  return kept;
}

}  // namespace stillpoint
