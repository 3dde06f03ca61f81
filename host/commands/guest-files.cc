// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/guest-files.hh"

#include "common/errors.hh"
#include "host/commands/guest-path.hh"
#include "host/commands/tree-layout.hh"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

namespace stillpoint {

namespace {

/// As many as Linux follows.
constexpr int max_links = 40;

std::string names_of(const std::vector<GuestFiles::Named>& file_systems) {
  std::string names;
  for (const GuestFiles::Named& named : file_systems)
    if (named.file_system.readable()) names += (names.empty() ? "" : ", ") + named.name;
  return names.empty() ? "none that can be read" : names;
}

}  // namespace

GuestFiles::Disk& GuestFiles::open(const DiskRecord& record) {
  std::unique_ptr<Disk>& disk = disks_[record.target];
  if (!disk) {
    auto opened = std::make_unique<Disk>(repository_.open_disk(record.map));
    opened->found = opened->files.file_systems();
    disk = std::move(opened);
  }
  return *disk;
}

std::vector<GuestFiles::Named> GuestFiles::file_systems() {
  std::vector<Named> all;
  for (const DiskRecord& record : manifest_.disks)
    for (const FileSystem& found : open(record).found) {
      Named named{file_system_name(record.target, found.partition), {}, found};
      for (const TreeRecord& tree : manifest_.trees)
        if (tree.file_system == named.name) named.mount_point = tree.mount_point;
      all.push_back(std::move(named));
    }
  return all;
}

GuestFiles::Where GuestFiles::where(const std::string& file_system) {
  for (const DiskRecord& record : manifest_.disks) {
    // Only the disk that the name begins with is opened.
    if (!file_system.starts_with(record.target)) continue;
    Disk& disk = open(record);
    for (const FileSystem& found : disk.found) {
      if (file_system_name(record.target, found.partition) != file_system) continue;
      if (!found.readable())
        throw CaptureError(fmt::format("{} holds {}, which cannot be read file by file", file_system,
                                       found.type.empty() ? "no file system that is known" : found.type),
                           "restore its disk and mount it");
      return {&disk, &found};
    }
  }
  throw NotFound(fmt::format("{} has no file system '{}'", manifest_.name, file_system),
                 "its file systems are " + names_of(file_systems()));
}

std::string GuestFiles::only_file_system() {
  const std::vector<Named> all = file_systems();
  const auto readable = [](const Named& named) { return named.file_system.readable(); };
  if (std::count_if(all.begin(), all.end(), readable) == 1) return std::find_if(all.begin(), all.end(), readable)->name;
  throw NotFound(fmt::format("{} does not know where its file systems were mounted", manifest_.name),
                 fmt::format("name one, as in {}:vda1:/etc/hosts: {}", manifest_.name, names_of(all)));
}

/// The file system that the guest has at that normal path, and the path in it.
std::pair<std::string, std::string> GuestFiles::by_mount_point(const std::string& path) {
  const TreeRecord* best = nullptr;
  std::string inner;
  for (const TreeRecord& tree : manifest_.trees) {
    const std::optional<std::string> below = path_below(tree.mount_point, path);
    if (!below || (best != nullptr && tree.mount_point.size() <= best->mount_point.size())) continue;
    best = &tree;
    inner = *below;
  }
  if (best != nullptr) return {best->file_system, inner};
  return {only_file_system(), path.substr(1)};
}

std::optional<GuestFiles::Place> GuestFiles::look(const std::string& file_system, const std::string& path) {
  const auto [name, inner] = file_system.empty() ? by_mount_point(path) : std::pair(file_system, path.substr(1));
  const Where at = where(name);
  std::optional<TreeEntry> entry = at.disk->files.look(*at.file_system, inner);
  if (!entry) return std::nullopt;
  return Place{name, inner, std::move(*entry)};
}

GuestFiles::Place GuestFiles::find(const std::string& file_system, std::string_view path, bool follow_last) {
  std::deque<std::string> left = path_parts(path);
  std::vector<std::string> reached;  // directories, none of them a symbolic link
  // Most paths have no symbolic link in them: one question instead of one for each part.
  if (std::none_of(left.begin(), left.end(), [](const std::string& part) { return part == ".."; })) {
    std::optional<Place> at_once = look(file_system, joined_path({left.begin(), left.end()}));
    if (at_once && !(follow_last && at_once->entry.type == EntryType::symlink)) return std::move(*at_once);
  }
  int links = 0;
  while (!left.empty()) {
    const std::string part = left.front();
    left.pop_front();
    if (part == "..") {
      if (!reached.empty()) reached.pop_back();
      continue;
    }
    reached.push_back(part);
    if (left.empty() && !follow_last) break;
    const std::optional<Place> place = look(file_system, joined_path(reached));
    if (!place) break;
    if (place->entry.type != EntryType::symlink) continue;
    if (++links > max_links) throw NotFound(fmt::format("{}: too many symbolic links", path));
    const std::string& target = place->entry.target;
    if (target.starts_with('/'))
      reached.clear();
    else
      reached.pop_back();
    const std::deque<std::string> inserted = path_parts(target);
    left.insert(left.begin(), inserted.begin(), inserted.end());
  }
  std::optional<Place> place = look(file_system, joined_path(reached));
  if (!place || !left.empty()) throw NotFound(fmt::format("{} has no file {}", manifest_.name, path));
  return std::move(*place);
}

void GuestFiles::walk(const Place& place, bool recursive, TreeSink& sink) {
  const Where at = where(place.file_system);
  at.disk->files.walk(*at.file_system, place.path, recursive, sink);
}

BlockReader& GuestFiles::disk(const Place& place) {
  return *where(place.file_system).disk->reader;
}

std::vector<std::string> GuestFiles::warnings() const {
  std::vector<std::string> warnings;
  for (const auto& [target, disk] : disks_)
    warnings.insert(warnings.end(), disk->files.warnings().begin(), disk->files.warnings().end());
  return warnings;
}

}  // namespace stillpoint
