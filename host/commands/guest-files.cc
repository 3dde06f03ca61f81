// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/guest-files.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "host/capture/kernel-reader.hh"
#include "host/capture/volume-groups.hh"
#include "host/commands/guest-path.hh"
#include "host/commands/tree-layout.hh"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

namespace stillpoint {

namespace {

/// As many as Linux follows.
constexpr int max_links = 40;
constexpr int max_binds = 8;

std::string names_of(const std::vector<GuestFiles::Named>& file_systems) {
  std::string names;
  for (const GuestFiles::Named& named : file_systems)
    if (named.readable()) names += (names.empty() ? "" : ", ") + named.name;
  return names.empty() ? "none that can be read" : names;
}

/// Why the worker does not read it.
std::string reason_of(const FileSystem& file_system) {
  if (!file_system.obstacle.empty()) return file_system.obstacle;
  return file_system.readable() ? "its journal must be replayed" : file_system.type;
}

}  // namespace

GuestFiles::Disk& GuestFiles::open(const DiskRecord& record) {
  std::unique_ptr<Disk>& disk = disks_[record.target];
  if (!disk) {
    auto opened = std::make_unique<Disk>();
    opened->target = record.target;
    opened->reader = repository_.open_disk(record.map);
    opened->files = std::make_unique<FileSystemReader>(*opened->reader);
    opened->found = opened->files->file_systems();
    disk = std::move(opened);
  }
  return *disk;
}

std::vector<GuestFiles::Disk>& GuestFiles::volumes() {
  if (volumes_) return *volumes_;
  std::vector<VolumeSource> sources;
  for (const DiskRecord& record : manifest_.disks) {
    Disk& disk = open(record);
    sources.push_back({disk.target, disk.reader.get(), &disk.found});
  }
  std::vector<Disk> made;
  for (OpenedVolume& volume : open_volumes(sources))
    made.push_back({volume.target, std::move(volume.content), std::move(volume.files), std::move(volume.found)});
  return volumes_.emplace(std::move(made));
}

/// Whether there may be more file systems than were found so far. `to_list`: those with a name of their own only.
bool GuestFiles::needs_appliance(bool to_list) {
  const auto any = [&](const Disk& disk) {
    return std::any_of(disk.found.begin(), disk.found.end(), [&](const FileSystem& found) {
      if (found.type == "crypto_LUKS" && to_list) return !options_.keys.empty();
      if (found.type == "btrfs") return !kernel_ || !find_in(*kernel_, file_system_name(disk.target, found));
      return found.is_container();
    });
  };
  for (const DiskRecord& record : manifest_.disks)
    if (any(open(record))) return true;
  return std::any_of(volumes().begin(), volumes().end(), any);
}

GuestFiles::Disk& GuestFiles::appliance() {
  if (!appliance_) {
    std::vector<NamedDisk> disks;
    for (const DiskRecord& record : manifest_.disks)
      disks.push_back({record.target, open(record).reader.get()});
    auto started = std::make_unique<Disk>();
    started->files = std::make_unique<ApplianceReader>(std::move(disks), options_);
    log_info("starting an appliance for file systems that need one");
    started->found = started->files->file_systems();
    appliance_ = std::move(started);
  }
  return *appliance_;
}

/// What it has mounted of all that it may; none where the operator does not trust the guest, or nothing is mounted.
GuestFiles::Disk* GuestFiles::kernel() {
  if (kernel_ || !by_kernel_) return kernel_.get();
  by_kernel_ = false;  // one attempt
  std::vector<KernelFileSystem> list;
  const auto add = [&list](const Disk& disk) {
    for (const FileSystem& found : disk.found)
      if (is_for_kernel(found)) list.push_back({file_system_name(disk.target, found), found, disk.reader.get()});
  };
  for (const DiskRecord& record : manifest_.disks)
    add(open(record));
  for (const Disk& volume : volumes())
    add(volume);
  if (list.empty()) return nullptr;
  log_info("file systems are mounted by this machine's kernel: the guest is trusted");
  auto started = std::make_unique<Disk>();
  started->files = std::make_unique<KernelReader>(std::move(list), options_.stop);
  try {
    for (FileSystem& found : started->files->file_systems()) {
      if (found.obstacle.empty())
        started->found.push_back(std::move(found));
      else
        log_warning("{}: {}", found.volume, found.obstacle);
    }
  } catch (const CaptureError& error) {
    log_warning("nothing is mounted by this machine's kernel: {}", error.what());
    return nullptr;
  }
  kernel_ = std::move(started);
  return kernel_.get();
}

std::optional<GuestFiles::Where> GuestFiles::mounted(const std::string& file_system) {
  Disk* const disk = kernel();
  return disk == nullptr ? std::nullopt : find_in(*disk, file_system);
}

std::vector<GuestFiles::Named> GuestFiles::file_systems(bool may_start) {
  std::vector<Named> all;
  const auto add = [&](const Disk& disk) {
    for (const FileSystem& found : disk.found) {
      Named named{file_system_name(disk.target, found), {}, found};
      const auto same = [&named](const Named& other) { return other.name == named.name; };
      const auto known = std::find_if(all.begin(), all.end(), same);
      for (const TreeRecord& tree : manifest_.trees)
        if (tree.file_system == named.name) named.mount_point = tree.mount_point;
      if (known == all.end())
        all.push_back(std::move(named));
      else if (!known->file_system.readable())
        *known = std::move(named);
    }
  };
  for (const DiskRecord& record : manifest_.disks)
    add(open(record));
  for (const Disk& volume : volumes())
    add(volume);
  if (may_start && by_kernel_ && needs_appliance(true)) kernel();
  if (kernel_) add(*kernel_);
  if (!appliance_ && (!may_start || !needs_appliance(true))) return all;
  try {
    add(appliance());
  } catch (const CaptureError& error) {
    log_warning("not everything is listed: {}", error.what());
  }
  return all;
}

std::optional<GuestFiles::Where> GuestFiles::find_in(Disk& disk, const std::string& file_system) {
  for (const FileSystem& found : disk.found)
    if (file_system_name(disk.target, found) == file_system) return Where{&disk, &found};
  return std::nullopt;
}

/// Whether the worker can replay its journal; said once.
bool GuestFiles::replays(const Where& at, const std::string& file_system) {
  if (replayed_.contains(file_system)) return true;
  try {
    static_cast<void>(at.disk->files->look(*at.file_system, ""));
  } catch (const CaptureError& error) {
    log_warning("{}: {}", file_system, error.what());
    return false;
  }
  log_warning("{} was not frozen: its journal is replayed in memory", file_system);
  replayed_.insert(file_system);
  return true;
}

GuestFiles::Where GuestFiles::where(const std::string& file_system) {
  if (kernel_)
    if (const std::optional<Where> there = find_in(*kernel_, file_system)) return *there;
  std::optional<Where> at = appliance_ ? find_in(*appliance_, file_system) : std::nullopt;
  // Only the disk that the name begins with is opened.
  for (const DiskRecord& record : manifest_.disks)
    if (!at && file_system.starts_with(record.target)) at = find_in(open(record), file_system);
  if (!at)
    for (Disk& volume : volumes())
      if (!at) at = find_in(volume, file_system);
  if (at && at->file_system->readable() && (at->file_system->clean || replays(*at, file_system))) return *at;
  if (at ? at->file_system->is_for_appliance() || at->file_system->is_container() : needs_appliance(false)) {
    if (!at || is_for_kernel(*at->file_system))
      if (const std::optional<Where> there = mounted(file_system)) return *there;
    try {
      if (const std::optional<Where> there = find_in(appliance(), file_system)) at = there;
    } catch (const CaptureError& error) {
      throw CaptureError(
          fmt::format("{} is not read without an appliance ({}): {}", file_system,
                      at ? reason_of(*at->file_system) : "it is not on the disks by itself", error.what()),
          "install the packages libguestfs0 and nbdkit, or restore its disks and mount it");
    }
  }
  if (!at)
    throw NotFound(fmt::format("{} has no file system '{}'", manifest_.name, file_system),
                   "its file systems are " + names_of(file_systems()));
  if (at->file_system->readable() && at->file_system->clean) return *at;
  if (!at->file_system->obstacle.empty())
    throw CaptureError(fmt::format("{} cannot be read file by file: {}", file_system, at->file_system->obstacle),
                       at->file_system->type == "crypto_LUKS" ? "give its passphrase with --luks-key-file FILE"
                                                              : "restore its disks and mount it");
  throw CaptureError(
      fmt::format("{} holds {}, which cannot be read file by file", file_system,
                  at->file_system->type.empty() ? "no file system that is known" : at->file_system->type),
      "restore its disk and mount it");
}

std::string GuestFiles::only_file_system() {
  const std::vector<Named> all = file_systems();
  const auto readable = [](const Named& named) { return named.readable(); };
  if (std::count_if(all.begin(), all.end(), readable) == 1) return std::find_if(all.begin(), all.end(), readable)->name;
  throw NotFound(fmt::format("{} does not know where its file systems were mounted", manifest_.name),
                 fmt::format("name one, as in {}:vda1:/etc/hosts: {}", manifest_.name, names_of(all)));
}

/// Adds what the root's table says of places that are not known yet.
void GuestFiles::add_table(bool may_start) {
  const std::vector<Named> all = file_systems(may_start);
  const auto root =
      std::find_if(mounts_->begin(), mounts_->end(), [](const Mount& mount) { return mount.mount_point == "/"; });
  std::vector<MountCandidate> candidates;
  for (const bool by_worker : {true, false})
    for (const Named& named : all) {
      const FileSystem& found = named.file_system;
      if ((found.readable() && found.clean && !found.in_appliance) != by_worker) continue;
      // Those are no roots.
      const bool no_root = !named.readable() || found.type == "vfat" || found.type == "iso9660";
      const bool is_asked = !no_root && (by_worker || may_start || appliance_ || kernel_) &&
                            (root == mounts_->end() || root->file_system == named.name);
      candidates.push_back({named.name, &found, [this, is_asked, name = named.name](std::string_view path) {
                              if (!is_asked) return std::optional<std::string>();
                              try {
                                const Where at = where(name);
                                return read_mount_table(*at.disk->files, *at.file_system, path);
                              } catch (const CaptureError& error) {
                                log_warning("{}: {}", name, error.what());
                                return std::optional<std::string>();
                              }
                            }});
    }
  for (Mount& mount : find_mounts(candidates)) {
    const auto same = [&mount](const Mount& known) { return known.mount_point == mount.mount_point; };
    if (std::none_of(mounts_->begin(), mounts_->end(), same)) mounts_->push_back(std::move(mount));
  }
}

const std::vector<Mount>& GuestFiles::mounts(bool may_start) {
  if (mounts_) return *mounts_;
  mounts_.emplace();
  for (const TreeRecord& tree : manifest_.trees)
    if (!tree.mount_point.empty()) mounts_->push_back({tree.mount_point, tree.file_system, {}});
  add_table(false);
  const auto is_root = [](const Mount& mount) { return mount.mount_point == "/"; };
  if (may_start && std::none_of(mounts_->begin(), mounts_->end(), is_root)) add_table(true);
  return *mounts_;
}

/// The file system that the guest has at that normal path, and the path in it.
std::pair<std::string, std::string> GuestFiles::by_mount_point(const std::string& path) {
  std::string at = path;
  for (int bound = 0; bound <= max_binds; ++bound) {
    const Mount* best = nullptr;
    std::string inner;
    for (const Mount& mount : mounts(true)) {
      const std::optional<std::string> below = path_below(mount.mount_point, at);
      if (!below || (best != nullptr && mount.mount_point.size() <= best->mount_point.size())) continue;
      best = &mount;
      inner = *below;
    }
    if (best == nullptr) return {only_file_system(), at.substr(1)};
    if (!best->file_system.empty()) return {best->file_system, inner};
    if (best->bound.empty())
      throw NotFound(fmt::format("{} lies on none of {}'s disks that can be read: the guest mounts {} from elsewhere",
                                 path, manifest_.name, best->mount_point),
                     "its file systems are " + names_of(file_systems()));
    at = inner.empty() ? best->bound : fmt::format("{}/{}", best->bound == "/" ? "" : best->bound, inner);
  }
  throw NotFound(fmt::format("{}: too many directories bound to each other", path));
}

std::optional<GuestFiles::Place> GuestFiles::look(const std::string& file_system, const std::string& path) {
  const auto [name, inner] = file_system.empty() ? by_mount_point(path) : std::pair(file_system, path.substr(1));
  const Where at = where(name);
  std::optional<TreeEntry> entry = at.disk->files->look(*at.file_system, inner);
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
  at.disk->files->walk(*at.file_system, place.path, recursive, sink);
}

BlockReader& GuestFiles::disk(const Place& place) {
  return where(place.file_system).disk->files->content();
}

std::vector<std::string> GuestFiles::warnings() const {
  std::vector<std::string> warnings;
  const auto add = [&warnings](const Disk& disk) {
    if (disk.files) warnings.insert(warnings.end(), disk.files->warnings().begin(), disk.files->warnings().end());
  };
  for (const auto& [target, disk] : disks_)
    if (disk) add(*disk);
  if (appliance_) add(*appliance_);
  if (kernel_) add(*kernel_);
  if (volumes_) std::for_each(volumes_->begin(), volumes_->end(), add);
  return warnings;
}

}  // namespace stillpoint
