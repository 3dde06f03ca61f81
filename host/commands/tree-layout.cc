// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/tree-layout.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "common/protocol.hh"
#include "common/test-pause.hh"
#include "host/repository/lease.hh"
#include "host/repository/still-point-name.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <set>

namespace stillpoint {

namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

constexpr std::string_view partial_prefix = ".partial-";

void make_directories(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) throw_storage_errno(fmt::format("cannot make {}", path.native()), error.value());
}

/// "trees/web1/2026-11-22T08:20:11Z".
std::filesystem::path place_of(std::string_view still_point) {
  const std::size_t at = still_point.rfind('@');
  return std::filesystem::path("trees") / protocol::dump_name_part(still_point.substr(0, at)) /
         still_point.substr(at + 1);
}

/// Directories in a directory, links to such left out.
std::vector<std::filesystem::path> directories_in(const std::filesystem::path& path) {
  std::vector<std::filesystem::path> directories;
  std::error_code error;
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end; it.increment(error))
    if (it->symlink_status(error).type() == std::filesystem::file_type::directory) directories.push_back(it->path());
  return directories;
}

bool changed_before(const std::filesystem::path& path, WallTime time) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 && WallTime(std::chrono::seconds(status.st_ctim.tv_sec)) < time;
}

}  // namespace

std::string file_system_name(std::string_view target, std::uint32_t partition) {
  if (partition == 0) return std::string(target);
  const bool numbered_disk = !target.empty() && is_digit(target.back());
  return fmt::format("{}{}{}", target, numbered_disk ? "p" : "", partition);
}

std::string file_system_name(std::string_view target, const FileSystem& file_system) {
  return file_system.volume.empty() ? file_system_name(target, file_system.partition) : file_system.volume;
}

std::optional<std::uint32_t> partition_of(const GuestFileSystem& file_system) {
  std::string_view device = file_system.device;
  if (const std::size_t slash = device.rfind('/'); slash != std::string_view::npos) device.remove_prefix(slash + 1);
  if (device.starts_with("dm-") || device.starts_with("md") || device.empty()) return std::nullopt;
  std::size_t digits = device.size();
  while (digits > 0 && is_digit(device[digits - 1]))
    --digits;
  std::string_view number = device.substr(digits);
  if (number.empty()) return 0;
  // "nvme0n1" and "mmcblk0" end in a digit of the disk's own: their partitions stand behind a "p".
  const bool numbered_disk = device.starts_with("nvme") || device.starts_with("mmcblk");
  if (numbered_disk && (digits == 0 || device[digits - 1] != 'p')) return 0;
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  return error == std::errc{} ? std::optional(value) : std::nullopt;
}

std::string mount_point_of(const std::vector<GuestFileSystem>& mounted, std::string_view target,
                           std::uint32_t partition) {
  for (const GuestFileSystem& file_system : mounted) {
    // A file system over several disks (LVM, RAID) is none that a single disk holds.
    if (file_system.targets.size() != 1 || file_system.targets.front() != target) continue;
    if (partition_of(file_system) == partition) return file_system.mount_point;
  }
  return {};
}

std::string tree_name(std::string_view mount_point, std::string_view file_system) {
  if (mount_point == "/") return "@root";
  if (mount_point.empty()) return "@" + protocol::dump_name_part(file_system);
  std::string name;
  std::string_view rest = mount_point.substr(1);
  while (true) {
    const std::size_t slash = rest.find('/');
    // The separator and our own mark must not be mistaken for a part of the guest's names.
    for (const char c : protocol::dump_name_part(rest.substr(0, slash)))
      name += c == '-' ? "%2D" : c == '@' ? "%40" : std::string(1, c);
    if (slash == std::string_view::npos) return name;
    name += '-';
    rest.remove_prefix(slash + 1);
  }
}

void remove_trees(const std::filesystem::path& repository, const Manifest& manifest) {
  for (const TreeRecord& tree : manifest.trees) {
    // "trees/DOMAIN/TIME/NAME" of this still point, and nothing else: a manifest must not make us delete another's.
    const std::filesystem::path path(tree.path);
    const std::filesystem::path name = path.filename();
    if (tree.path.empty()) continue;
    if (path.parent_path() != place_of(manifest.name) || name.empty() || name == "." || name == "..") {
      log_warning("{} is no tree's path of {}: left", tree.path, manifest.name);
      continue;
    }
    std::error_code error;
    std::filesystem::remove_all(repository / path, error);
    if (error) log_warning("cannot delete {}: {}", tree.path, error.message());
    std::filesystem::remove(repository / path.parent_path(), error);  // when it was the last one
  }
}

std::size_t sweep_trees(const std::filesystem::path& repository, const std::vector<std::string>& names, WallTime before,
                        const std::stop_token& stop) {
  std::set<std::filesystem::path> wanted;
  for (const std::string& name : names)
    wanted.insert(repository / place_of(name));
  std::vector<std::filesystem::path> strays;
  for (const std::filesystem::path& domain : directories_in(repository / "trees")) {
    const std::string name = domain.filename().native();
    if (name.starts_with(partial_prefix)) {
      if (is_id(std::string_view(name).substr(partial_prefix.size()))) strays.push_back(domain);
      continue;
    }
    // What is not named as ours is somebody's.
    for (std::filesystem::path& tree : directories_in(domain))
      if (!wanted.contains(tree) && parse_name_time(tree.filename().native())) strays.push_back(std::move(tree));
  }
  std::size_t deleted = 0;
  for (const std::filesystem::path& stray : strays) {
    if (stop.stop_requested()) throw Interrupted("stopped while it deleted unfinished trees");
    if (!changed_before(stray, before - clock_margin)) continue;
    std::error_code error;
    std::filesystem::remove_all(stray, error);
    if (error)
      log_warning("cannot delete {}: {}", stray.native(), error.message());
    else
      ++deleted;
  }
  return deleted;
}

TreeDirectory::TreeDirectory(std::filesystem::path repository, std::string id)
    : repository_(std::move(repository)), staging_(repository_ / "trees" / fmt::format("{}{}", partial_prefix, id)) {}

TreeDirectory::~TreeDirectory() {
  if (keep_) return;
  for (const std::filesystem::path& path : {staging_, published_}) {
    std::error_code error;
    if (!path.empty()) std::filesystem::remove_all(path, error);
    if (error) log_warning("cannot remove the unfinished tree {}: {}", path.native(), error.message());
  }
}

std::filesystem::path TreeDirectory::staging(std::string_view tree) {
  // A guest's files, its set-user-ID programs among them, are nothing for the host's users.
  if (::mkdir((repository_ / "trees").c_str(), 0700) != 0 && errno != EEXIST)
    throw_storage_errno(fmt::format("cannot make {}/trees", repository_.native()), errno);
  make_directories(staging_);
  return staging_ / tree;
}

bool TreeDirectory::finds(std::string_view still_point) const {
  const std::filesystem::path place = repository_ / place_of(still_point);
  std::error_code unknown;
  return place != published_ && std::filesystem::exists(place, unknown);
}

void TreeDirectory::publish(std::string_view still_point, std::vector<TreeRecord>& trees) {
  const bool any = std::any_of(trees.begin(), trees.end(), [](const TreeRecord& t) { return t.failure.empty(); });
  if (!any) return;
  const std::filesystem::path from = published_.empty() ? staging_ : published_;
  for (const TreeRecord& tree : trees)
    if (tree.failure.empty() && !std::filesystem::is_directory(from / tree_name(tree.mount_point, tree.file_system)))
      throw StorageError(fmt::format("the tree of {} is gone from {}", tree.file_system, from.native()),
                         "somebody deleted it while it was written: run the backup again");
  pause_for_test("name");
  const std::filesystem::path place = place_of(still_point);
  const std::filesystem::path domain = (repository_ / place).parent_path();
  make_directories(domain);
  const UniqueFd directory = open_directory(from);
  if (::syncfs(directory.get()) != 0) throw_storage_errno(fmt::format("cannot sync {}", from.native()), errno);
  if (rename_without_replacing(from, repository_ / place) != 0)
    throw_storage_errno(fmt::format("cannot rename {} to {}", from.native(), place.native()), errno);
  published_ = repository_ / place;
  sync_directory(domain);
  sync_directory(repository_ / "trees");
  for (TreeRecord& tree : trees)
    if (tree.failure.empty()) tree.path = (place / tree_name(tree.mount_point, tree.file_system)).native();
}

}  // namespace stillpoint
