// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/capture-trees.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "host/capture/appliance-reader.hh"
#include "host/capture/file-system-reader.hh"
#include "host/capture/kernel-reader.hh"
#include "host/capture/shared-reader.hh"
#include "host/capture/tree-writer.hh"
#include "host/capture/volume-groups.hh"
#include "host/commands/mount-table.hh"
#include "host/commands/progress.hh"
#include "host/commands/semaphore-hold.hh"
#include "host/commands/task-group.hh"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <thread>

namespace stillpoint {

namespace {

constexpr unsigned most_trees = 4;  // at once; each has threads of its own

/// Passes entries on, counts them for the progress, and stops when told.
class WatchedSink : public TreeSink {
 public:
  WatchedSink(TreeSink& sink, CaptureProgress& progress, const std::stop_token& stop)
      : sink_(sink), progress_(progress), stop_(stop) {}

  void entry(const TreeEntry& entry) override {
    if (stop_.stop_requested()) throw Interrupted("stopped while reading a tree");
    sink_.entry(entry);
    bytes_ += entry.size;
    progress_.advance(bytes_, bytes_);
  }

 private:
  TreeSink& sink_;
  CaptureProgress& progress_;
  const std::stop_token& stop_;
  std::uint64_t bytes_ = 0;
};

/// Stops between reads when told: a single file may be as large as its disk.
class StoppableReader : public BlockReader {
 public:
  StoppableReader(BlockReader& disk, const std::stop_token& stop) : disk_(disk), stop_(stop) {}

  [[nodiscard]] std::uint64_t size() const override { return disk_.size(); }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override {
    check();
    disk_.pread(buffer, offset);
  }
  void pread_many(std::span<const Request> requests) override {
    check();
    disk_.pread_many(requests);
  }
  [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) override {
    return disk_.extents(offset, length);
  }

 private:
  void check() const {
    if (stop_.stop_requested()) throw Interrupted("stopped while reading a tree");
  }

  BlockReader& disk_;
  const std::stop_token& stop_;
};

std::optional<std::filesystem::path> previous_tree(const Manifest* parent, const std::filesystem::path& repository,
                                                   const TreeRecord& tree) {
  if (parent == nullptr) return std::nullopt;
  for (const TreeRecord& earlier : parent->trees)
    if (earlier.disk == tree.disk && earlier.file_system == tree.file_system && !earlier.path.empty()) {
      std::filesystem::path path = repository / earlier.path;
      if (std::filesystem::is_directory(path)) return path;
    }
  return std::nullopt;
}

/// A file system whose tree is to be written.
struct TreePlan {
  const DiskSource* source = nullptr;    ///< the disk that it lies on, or
  const OpenedVolume* opened = nullptr;  ///< the volume
  FileSystem file_system;
  TreeRecord record;
  std::vector<std::string> warnings{};
};

/// Where a file system lies below the guest's root; empty where that is not known.
std::string place_below_root(const std::string& mount_point) {
  return mount_point.substr(std::min(mount_point.find_first_not_of('/'), mount_point.size()));
}

/// Why there can be no tree of a file system; empty when there can. Swap space and blank partitions are not worth a
/// word.
std::string tree_obstacle(const FileSystem& file_system) {
  if (!file_system.obstacle.empty()) return file_system.obstacle;
  if (!file_system.readable()) return fmt::format("{} is not read as a tree", file_system.type);
  return {};
}

bool holds_files(const FileSystem& file_system) {
  return !file_system.type.empty() && file_system.type != "swap";
}

bool is_volume(const OpenedVolume& opened) {
  return !opened.found.empty() && !opened.found.front().volume.empty();
}

/// Trees of all file systems of a guest: those on its disks at once, then those of volumes, then those that only an
/// appliance reads.
class TreeCapture {
 public:
  TreeCapture(const std::vector<GuestFileSystem>& mounted, const TreeChoice& choice, const Manifest* parent,
              const std::filesystem::path& repository, TreeDirectory& trees, Progress& progress,
              const std::stop_token& stop, std::vector<TreeRecord>& records, std::vector<std::string>& warnings)
      : mounted_(mounted),
        choice_(choice),
        parent_(parent),
        repository_(repository),
        trees_(trees),
        progress_(progress),
        stop_(stop),
        records_(records),
        warnings_(warnings) {}

  void run(const std::vector<DiskSource>& disks) {
    if (!choice_.filter.empty())
      warnings_.emplace_back("trees hold only what --include and --exclude have left of them");
    std::map<std::string, const DiskSource*> sources;
    for (const DiskSource& source : disks) {
      sources[source.target] = &source;
      open(source);
    }
    add_volumes();
    add_mount_points();
    for (const OpenedVolume& opened : opened_)
      for (const FileSystem& file_system : opened.found)
        plan(opened, is_volume(opened) ? nullptr : sources.at(opened.target), file_system);
    write_planned();
    if (!for_kernel_.empty()) write_from_kernel();
    if (needs_appliance_ || !left_.empty()) write_from_appliance();
    for (TreePlan& plan : left_)
      if (std::ranges::find(records_, plan.record.file_system, &TreeRecord::file_system) == records_.end()) keep(plan);
  }

 private:
  void open(const DiskSource& source) {
    try {
      OpenedVolume opened;
      opened.target = source.target;
      opened.content = source.open();
      opened.files = std::make_unique<FileSystemReader>(*opened.content);
      opened.found = opened.files->file_systems();
      opened_.push_back(std::move(opened));
    } catch (const CaptureError& e) {
      TreeRecord unreadable;
      unreadable.disk = unreadable.file_system = source.target;
      unreadable.failure = e.what();
      records_.push_back(std::move(unreadable));
    }
  }

  void add_volumes() {
    std::vector<VolumeSource> sources;
    for (const OpenedVolume& opened : opened_)
      sources.push_back({opened.target, opened.content.get(), &opened.found});
    try {
      for (OpenedVolume& volume : open_volumes(sources))
        opened_.push_back(std::move(volume));
    } catch (const CaptureError& e) {
      warnings_.push_back(fmt::format("no trees of logical volumes: {}", e.what()));
    }
  }

  /// A guest calls a volume "dm-0", which says nothing: its own mount table names it.
  void add_mount_points() {
    if (std::ranges::none_of(opened_, is_volume)) return;
    std::vector<MountCandidate> candidates;
    for (const OpenedVolume& opened : opened_)
      for (const FileSystem& found : opened.found) {
        if (!tree_obstacle(found).empty()) continue;
        candidates.push_back({file_system_name(opened.target, found), &found,
                              [&opened, &found](std::string_view path) -> std::optional<std::string> {
                                try {
                                  return read_mount_table(*opened.files, found, path);
                                } catch (const CaptureError&) {
                                  return std::nullopt;  // its tree will say why
                                }
                              }});
      }
    for (const Mount& mount : find_mounts(candidates)) {
      // The guest's report knows what is mounted now.
      const auto is_it = [&mount](const GuestFileSystem& told) { return told.mount_point == mount.mount_point; };
      if (!mount.file_system.empty() && (mounted_.empty() || std::ranges::any_of(mounted_, is_it)))
        volume_mount_points_.emplace(mount.file_system, mount.mount_point);
    }
  }

  void plan(const OpenedVolume& opened, const DiskSource* source, const FileSystem& file_system) {
    // What is on a physical volume comes by its own name.
    if (file_system.type == "LVM2_member" || (file_system.obstacle.empty() && !holds_files(file_system))) return;
    TreeRecord record;
    record.disk = opened.target;
    record.file_system = file_system_name(opened.target, file_system);
    if (file_system.volume.empty())
      record.mount_point = mount_point_of(mounted_, opened.target, file_system.partition);
    else if (const auto found = volume_mount_points_.find(record.file_system); found != volume_mount_points_.end())
      record.mount_point = found->second;
    if (const std::string obstacle = tree_obstacle(file_system); !obstacle.empty()) {
      if (!choice_.by_kernel || !is_for_kernel(file_system))
        leave_to_appliance(record.file_system, obstacle, file_system.is_for_appliance() || file_system.is_container());
      else if (wanted(record))
        for_kernel_.push_back({record.file_system, file_system, opened.content.get()});
      return;
    }
    if (!wanted(record)) return;
    if (!file_system.clean)
      warnings_.push_back(fmt::format("tree of {}: its journal was replayed, as after a crash", record.file_system));
    plans_.push_back({source, &opened, file_system, std::move(record)});
  }

  /// `is_readable`: by an appliance.
  void leave_to_appliance(const std::string& name, const std::string& obstacle, bool is_readable) {
    if (is_readable && choice_.in_appliance)
      needs_appliance_ = true;
    else
      warnings_.push_back(fmt::format("no tree of {}: {}{}", name, obstacle,
                                      is_readable ? "; 'stillpoint files' reads it in an appliance" : ""));
  }

  bool wanted(const TreeRecord& record) {
    if (choice_.filter.wants_directories(place_below_root(record.mount_point))) return true;
    // An appliance comes to those again that the guest's disks were asked for.
    std::string text = fmt::format("no tree of {}: it is left out as asked", record.file_system);
    if (std::ranges::find(warnings_, text) == warnings_.end()) warnings_.push_back(std::move(text));
    return false;
  }

  void write_planned() {
    std::counting_semaphore<> slots(std::clamp(std::thread::hardware_concurrency(), 1U, most_trees));
    TaskGroup at_once(stop_);
    for (TreePlan& plan : plans_)
      if (plan.source != nullptr)
        at_once.run([this, &plan, &slots](const std::stop_token& stopped) {
          const SemaphoreHold slot(slots);
          if (stopped.stop_requested()) throw Interrupted("stopped before a tree was read");
          const auto open = [&plan]() -> std::unique_ptr<BlockReader> { return plan.source->open(); };
          write(plan, open, stopped);
        });
    at_once.wait();
    // Volumes share the connections of the disks that they lie on.
    for (TreePlan& plan : plans_)
      if (plan.source == nullptr) write(plan, nullptr, stop_);
    for (TreePlan& plan : plans_)
      keep(plan);
  }

  void keep(TreePlan& plan) {
    warnings_.insert(warnings_.end(), plan.warnings.begin(), plan.warnings.end());
    records_.push_back(std::move(plan.record));
  }

  /// What is wrong with the guest's file system is the record's failure.
  void write(TreePlan& plan, const std::function<std::unique_ptr<BlockReader>()>& open, const std::stop_token& stop) {
    guarded(plan, [&](const std::filesystem::path& target) {
      const std::unique_ptr<BlockReader> own = open ? open() : nullptr;
      StoppableReader stoppable(own ? *own : *plan.opened->content, stop);
      SharedReader shared(stoppable);
      FileSystemReader reader(shared);
      write_tree(plan, reader, shared, target, stop);
    });
  }

  void guarded(TreePlan& plan, const std::function<void(const std::filesystem::path&)>& write) {
    TreeRecord& record = plan.record;
    const std::filesystem::path target = trees_.staging(tree_name(record.mount_point, record.file_system));
    try {
      write(target);
    } catch (const CaptureError& e) {
      record.failure = e.what();
    } catch (const Corruption& e) {
      record.failure = e.what();
    } catch (const StorageError& e) {
      // Sizes and names are the guest's: one that the target cannot hold costs this tree alone.
      record.failure = e.what();
    }
    if (record.failure.empty()) return;
    std::error_code ignored;
    std::filesystem::remove_all(target, ignored);
  }

  void write_tree(TreePlan& plan, FileSystemReader& reader, SharedReader& content, const std::filesystem::path& target,
                  const std::stop_token& stop) {
    TreeRecord& record = plan.record;
    const auto line = progress_.line("tree " + record.file_system);
    const std::size_t warned = reader.warnings().size();
    TreeWriter writer(target, previous_tree(parent_, repository_, record), content, TreeOwners::as_attributes);
    FilteredSink filtered(writer, choice_.filter, place_below_root(record.mount_point));
    WatchedSink sink(filtered, *line, stop);
    reader.walk(plan.file_system, "", true, sink);
    const TreeCounts counts = writer.finish();
    record.entries = counts.entries;
    record.bytes = counts.bytes;
    record.files_written = counts.files_written;
    record.bytes_written = counts.bytes_written;
    std::vector<std::string> said = counts.warnings;
    said.insert(said.end(), reader.warnings().begin() + static_cast<std::ptrdiff_t>(warned), reader.warnings().end());
    for (const std::string& text : said)
      plan.warnings.push_back(fmt::format("tree of {}: {}", record.file_system, text));
  }

  /// What this machine's kernel cannot mount is left to an appliance.
  void write_from_kernel() {
    const auto on_list = [this](const FileSystem& found) {
      return std::ranges::find(for_kernel_, found.volume, &KernelFileSystem::name) != for_kernel_.end();
    };
    try {
      KernelReader reader(for_kernel_, stop_);
      for (const FileSystem& file_system : reader.file_systems()) {
        // Subvolumes are in the tree of what they lie in.
        if (!on_list(file_system)) continue;
        if (!file_system.obstacle.empty()) {
          leave_to_appliance(file_system.volume, file_system.obstacle, true);
          continue;
        }
        log_info("{} is mounted by this machine's kernel: the guest is trusted", file_system.volume);
        TreePlan plan = plan_by_name(opened_.front().target, file_system);
        write_by(reader, plan);
        const std::string& failure = plan.record.failure;
        // A worker that has ended says nothing of this file system, or of those after it.
        const bool is_left = !failure.empty() && reader.has_ended() && choice_.in_appliance;
        warnings_.push_back(fmt::format(
            "tree of {}: {}", file_system.volume,
            is_left ? "left to an appliance: " + failure : "read by this machine's kernel, as --trust-guest asks"));
        if (is_left)
          left_.push_back(std::move(plan));
        else
          keep(plan);
      }
    } catch (const CaptureError& e) {
      for (const KernelFileSystem& each : for_kernel_)
        if (std::ranges::find(records_, each.name, &TreeRecord::file_system) == records_.end())
          leave_to_appliance(each.name, e.what(), true);
    }
  }

  /// All disks at once: what is left may lie on several.
  void write_from_appliance() {
    std::vector<NamedDisk> disks;
    for (const OpenedVolume& opened : opened_)
      if (!is_volume(opened)) disks.push_back({opened.target, opened.content.get()});
    try {
      ApplianceReader reader(disks, {{}, stop_});
      const std::vector<FileSystem> found = reader.file_systems();
      for (const FileSystem& file_system : found) {
        const auto is_done = [&](const TreeRecord& record) { return record.file_system == file_system.volume; };
        // Subvolumes are in the tree of what they lie in.
        const auto holds_it = [&](const FileSystem& other) {
          return other.type == "btrfs" && file_system.uuid == other.uuid && file_system.volume != other.volume &&
                 file_system.volume.starts_with(other.volume + "/");
        };
        if (std::ranges::any_of(records_, is_done) || std::ranges::any_of(found, holds_it)) continue;
        if (!file_system.readable()) {
          warnings_.push_back(fmt::format("no tree of {}: {}", file_system.volume, file_system.obstacle));
          continue;
        }
        TreePlan plan = plan_by_name(disks.front().name, file_system);
        if (!wanted(plan.record)) continue;
        write_by(reader, plan);
        keep(plan);
      }
    } catch (const CaptureError& e) {
      warnings_.push_back(fmt::format("no trees by an appliance: {}", e.what()));
    }
  }

  /// Of a file system that an AskedReader has found, whose place only its name tells.
  [[nodiscard]] TreePlan plan_by_name(const std::string& any_disk, const FileSystem& file_system) const {
    TreePlan plan;
    plan.file_system = file_system;
    TreeRecord& record = plan.record;
    record.disk = any_disk;
    record.file_system = file_system.volume;
    for (const OpenedVolume& opened : opened_)
      for (const FileSystem& known : opened.found)
        if (known.volume.empty() && file_system_name(opened.target, known) == record.file_system) {
          record.disk = opened.target;
          record.mount_point = mount_point_of(mounted_, opened.target, known.partition);
        }
    if (const auto named = volume_mount_points_.find(record.file_system);
        named != volume_mount_points_.end() && record.mount_point.empty())
      record.mount_point = named->second;
    return plan;
  }

  void write_by(FileSystemReader& reader, TreePlan& plan) {
    guarded(plan, [&](const std::filesystem::path& target) {
      StoppableReader stoppable(reader.content(), stop_);
      SharedReader shared(stoppable);
      write_tree(plan, reader, shared, target, stop_);
    });
  }

  const std::vector<GuestFileSystem>& mounted_;
  const TreeChoice& choice_;
  const Manifest* parent_;
  const std::filesystem::path& repository_;
  TreeDirectory& trees_;
  Progress& progress_;
  const std::stop_token& stop_;
  std::vector<TreeRecord>& records_;
  std::vector<std::string>& warnings_;
  std::vector<OpenedVolume> opened_;  ///< disks, then volumes on them
  std::map<std::string, std::string> volume_mount_points_;
  std::vector<TreePlan> plans_;
  std::vector<KernelFileSystem> for_kernel_;
  std::vector<TreePlan> left_;  ///< by the kernel's worker, which ended: an appliance is to try
  bool needs_appliance_ = false;
};

}  // namespace

void capture_trees(TaskGroup& tasks, const std::vector<DiskSource>& disks, const std::vector<GuestFileSystem>& mounted,
                   const TreeChoice& choice, const Manifest* parent, const std::filesystem::path& repository,
                   TreeDirectory& trees, Progress& progress, std::vector<TreeRecord>& records,
                   std::vector<std::string>& warnings) {
  tasks.run([&disks, &mounted, choice, parent, &repository, &trees, &progress, &records,
             &warnings](const std::stop_token& stop) {
    TreeCapture(mounted, choice, parent, repository, trees, progress, stop, records, warnings).run(disks);
  });
}

}  // namespace stillpoint
