// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/capture-levels.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "host/capture/appliance-reader.hh"
#include "host/capture/disk-capture.hh"
#include "host/capture/file-system-reader.hh"
#include "host/capture/tree-writer.hh"
#include "host/capture/volume-groups.hh"
#include "host/commands/mount-table.hh"
#include "host/commands/progress.hh"
#include "host/commands/task-group.hh"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <semaphore>
#include <set>

namespace stillpoint {

namespace {

/// A dump stream that delivers nothing for this long has failed; a lock that the tool waits for counts as silence too.
constexpr std::chrono::minutes dump_silence{10};

class SemaphoreHold {
 public:
  explicit SemaphoreHold(std::counting_semaphore<>& semaphore) : semaphore_(semaphore) { semaphore_.acquire(); }
  SemaphoreHold(const SemaphoreHold&) = delete;
  SemaphoreHold& operator=(const SemaphoreHold&) = delete;
  ~SemaphoreHold() { semaphore_.release(); }

 private:
  std::counting_semaphore<>& semaphore_;
};

DiskRecord capture_one_disk(Repository& repository, const DiskSource& source, CaptureProgress& progress,
                            const std::stop_token& stop) {
  const bool incremental = source.full_reason.empty();
  const auto disk = source.open();
  const auto writer = repository.write_disk(disk->size(), incremental ? source.base : std::nullopt);
  const CaptureCounts read = capture_disk(*disk, incremental, *writer, progress, stop);
  DiskRecord record;
  record.target = source.target;
  record.source = source.source;
  record.format = source.format;
  record.map = writer->finish();
  record.incremental = incremental;
  record.full_reason = source.full_reason;
  record.read = read.read;
  record.changed = read.changed;
  record.stored = writer->counts().stored;
  return record;
}

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

/// Writes one file system's tree. What is wrong with the guest's file system is the record's failure; what is wrong
/// with the target is thrown.
void capture_one_tree(FileSystemReader& reader, BlockReader& disk, const FileSystem& file_system,
                      const std::optional<std::filesystem::path>& previous, TreeDirectory& trees,
                      CaptureProgress& progress, const std::stop_token& stop, TreeRecord& record,
                      std::vector<std::string>& warnings) {
  const auto warn = [&](const std::string& text) {
    warnings.push_back(fmt::format("tree of {}: {}", record.file_system, text));
  };
  const std::size_t warned = reader.warnings().size();
  const std::filesystem::path target = trees.staging(tree_name(record.mount_point, record.file_system));
  try {
    StoppableReader stoppable(disk, stop);
    TreeWriter writer(target, previous, stoppable);
    WatchedSink sink(writer, progress, stop);
    reader.walk(file_system, "", true, sink);
    const TreeCounts counts = writer.finish();
    record.entries = counts.entries;
    record.bytes = counts.bytes;
    record.files_written = counts.files_written;
    record.bytes_written = counts.bytes_written;
    std::for_each(counts.warnings.begin(), counts.warnings.end(), warn);
    std::for_each(reader.warnings().begin() + static_cast<std::ptrdiff_t>(warned), reader.warnings().end(), warn);
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

/// Trees of all file systems of a guest, those of each disk and then those of volumes.
class TreeCapture {
 public:
  TreeCapture(const std::vector<GuestFileSystem>& mounted, const Manifest* parent,
              const std::filesystem::path& repository, TreeDirectory& trees, Progress& progress,
              const std::stop_token& stop, std::vector<TreeRecord>& records, std::vector<std::string>& warnings)
      : mounted_(mounted),
        parent_(parent),
        repository_(repository),
        trees_(trees),
        progress_(progress),
        stop_(stop),
        records_(records),
        warnings_(warnings) {}

  void run(const std::vector<DiskSource>& disks, bool in_appliance) {
    in_appliance_ = in_appliance;
    for (const DiskSource& source : disks) {
      try {
        Opened opened;
        opened.target = source.target;
        opened.content = source.open();
        opened.files = std::make_unique<FileSystemReader>(*opened.content);
        opened.found = opened.files->file_systems();
        opened_.push_back(std::move(opened));
      } catch (const CaptureError& e) {
        fail(source.target, e.what());
      }
    }
    add_volumes();
    add_mount_points();
    for (const Opened& opened : opened_)
      for (const FileSystem& file_system : opened.found)
        capture(opened, file_system);
    if (needs_appliance_) capture_in_appliance();
  }

 private:
  using Opened = OpenedVolume;

  void add_volumes() {
    std::vector<VolumeSource> sources;
    for (const Opened& opened : opened_)
      sources.push_back({opened.target, opened.content.get(), &opened.found});
    try {
      for (Opened& volume : open_volumes(sources))
        opened_.push_back(std::move(volume));
    } catch (const CaptureError& e) {
      warnings_.push_back(fmt::format("no trees of logical volumes: {}", e.what()));
    }
  }

  /// A guest calls a volume "dm-0", which says nothing: its own mount table names it.
  void add_mount_points() {
    if (std::none_of(opened_.begin(), opened_.end(), [](const Opened& opened) { return is_volume(opened); })) return;
    std::vector<MountCandidate> candidates;
    for (const Opened& opened : opened_)
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
      if (!mount.file_system.empty() && (mounted_.empty() || std::any_of(mounted_.begin(), mounted_.end(), is_it)))
        volume_mount_points_.emplace(mount.file_system, mount.mount_point);
    }
  }

  static bool is_volume(const Opened& opened) { return !opened.found.empty() && !opened.found.front().volume.empty(); }

  void capture(const Opened& opened, const FileSystem& file_system) {
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
      const bool is_for_appliance = file_system.is_for_appliance() || file_system.is_container();
      if (is_for_appliance && in_appliance_)
        needs_appliance_ = true;
      else
        warnings_.push_back(fmt::format("no tree of {}: {}{}", record.file_system, obstacle,
                                        is_for_appliance ? "; 'stillpoint files' reads it in an appliance" : ""));
      return;
    }
    if (!file_system.clean)
      warnings_.push_back(fmt::format("tree of {}: its journal was replayed, as after a crash", record.file_system));
    const auto line = progress_.line("tree " + record.file_system);
    const auto previous = previous_tree(parent_, repository_, record);
    capture_one_tree(*opened.files, opened.files->content(), file_system, previous, trees_, *line, stop_, record,
                     warnings_);
    records_.push_back(std::move(record));
  }

  /// All disks at once: what is left may lie on several.
  void capture_in_appliance() {
    std::vector<NamedDisk> disks;
    for (const Opened& opened : opened_)
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
        if (std::any_of(records_.begin(), records_.end(), is_done) || std::any_of(found.begin(), found.end(), holds_it))
          continue;
        if (file_system.readable())
          capture_by(reader, disks.front().name, file_system);
        else
          warnings_.push_back(fmt::format("no tree of {}: {}", file_system.volume, file_system.obstacle));
      }
    } catch (const CaptureError& e) {
      warnings_.push_back(fmt::format("no trees by an appliance: {}", e.what()));
    }
  }

  void capture_by(ApplianceReader& reader, const std::string& any_disk, const FileSystem& file_system) {
    TreeRecord record;
    record.disk = any_disk;
    record.file_system = file_system.volume;
    for (const Opened& opened : opened_)
      for (const FileSystem& known : opened.found)
        if (known.volume.empty() && file_system_name(opened.target, known) == record.file_system) {
          record.disk = opened.target;
          record.mount_point = mount_point_of(mounted_, opened.target, known.partition);
        }
    if (const auto named = volume_mount_points_.find(record.file_system);
        named != volume_mount_points_.end() && record.mount_point.empty())
      record.mount_point = named->second;
    const auto line = progress_.line("tree " + record.file_system);
    const auto previous = previous_tree(parent_, repository_, record);
    capture_one_tree(reader, reader.content(), file_system, previous, trees_, *line, stop_, record, warnings_);
    records_.push_back(std::move(record));
  }

  void fail(const std::string& target, std::string reason) {
    TreeRecord unreadable;
    unreadable.disk = unreadable.file_system = target;
    unreadable.failure = std::move(reason);
    records_.push_back(std::move(unreadable));
  }

  const std::vector<GuestFileSystem>& mounted_;
  const Manifest* parent_;
  const std::filesystem::path& repository_;
  TreeDirectory& trees_;
  Progress& progress_;
  const std::stop_token& stop_;
  std::vector<TreeRecord>& records_;
  std::vector<std::string>& warnings_;
  std::vector<Opened> opened_;  ///< disks, then volumes on them
  std::map<std::string, std::string> volume_mount_points_;
  bool in_appliance_ = false;
  bool needs_appliance_ = false;
};

class RepositoryDumpSink : public AgentClient::DumpSink {
 public:
  RepositoryDumpSink(Repository& repository, DumpRecord& record, std::unique_ptr<CaptureProgress> progress,
                     const std::stop_token& stop)
      : writer_(repository.write_dump()), record_(record), progress_(std::move(progress)), stop_(stop) {}

  void write(std::span<const std::byte> bytes) override {
    if (stop_.stop_requested()) throw Interrupted("stopped while reading a dump");
    writer_->write(bytes);
    size_ += bytes.size();
    progress_->advance(size_, size_);
  }

  void end(const std::string& failure) override {
    record_.failure = failure;
    if (!failure.empty()) return;
    record_.map = writer_->finish();
    record_.stored = writer_->counts().stored;
  }

 private:
  std::unique_ptr<DumpWriter> writer_;
  DumpRecord& record_;
  std::unique_ptr<CaptureProgress> progress_;
  const std::stop_token& stop_;
  std::uint64_t size_ = 0;
};

}  // namespace

void capture_disks(TaskGroup& tasks, Repository& repository, const std::vector<DiskSource>& disks, unsigned parallel,
                   Progress& progress, std::vector<DiskRecord>& records) {
  records.resize(disks.size());
  const auto slots = std::make_shared<std::counting_semaphore<>>(static_cast<std::ptrdiff_t>(parallel));
  for (std::size_t i = 0; i < disks.size(); ++i)
    tasks.run([&repository, &progress, &source = disks[i], &record = records[i], slots](const std::stop_token& stop) {
      const SemaphoreHold slot(*slots);
      if (stop.stop_requested()) throw Interrupted("stopped before a disk was read");
      const auto line = progress.line(source.target);
      record = capture_one_disk(repository, source, *line, stop);
    });
}

void capture_trees(TaskGroup& tasks, const std::vector<DiskSource>& disks, const std::vector<GuestFileSystem>& mounted,
                   const Manifest* parent, const std::filesystem::path& repository, TreeDirectory& trees,
                   Progress& progress, bool in_appliance, std::vector<TreeRecord>& records,
                   std::vector<std::string>& warnings) {
  // One disk after the other: trees share the target's directory, and the disks' own readers keep the machine busy.
  tasks.run([&disks, &mounted, parent, repository, &trees, &progress, in_appliance, &records,
             &warnings](const std::stop_token& stop) {
    TreeCapture(mounted, parent, repository, trees, progress, stop, records, warnings).run(disks, in_appliance);
  });
}

void capture_dumps(TaskGroup& tasks, Repository& repository, AgentClient& agent, const Report& report,
                   Progress& progress, std::vector<DumpRecord>& records) {
  std::set<std::string> distinct;
  for (const DatabaseReport& database : report.databases)
    if (!database.dump.empty() && database.exactness != Exactness::failed && distinct.insert(database.dump).second)
      records.push_back({database.dump, {}, 0, "the channel closed before it was complete"});
  tasks.run([&repository, &agent, id = report.id, &progress, &records](const std::stop_token& stop) {
    std::vector<std::string> names;
    for (const DumpRecord& record : records)
      names.push_back(record.name);
    const auto sink_for = [&](const std::string& name) -> std::unique_ptr<AgentClient::DumpSink> {
      const auto record =
          std::find_if(records.begin(), records.end(), [&](const DumpRecord& r) { return r.name == name; });
      return std::make_unique<RepositoryDumpSink>(repository, *record, progress.line(name), stop);
    };
    try {
      agent.run_dumps(id, names, sink_for, dump_silence, stop);
    } catch (const Unreachable& e) {
      // The disks are whole without the agent: only what it did not deliver has failed.
      log_warning("the agent was lost while it sent dumps: {}", e.what());
    }
    agent.finish(id);
  });
}

}  // namespace stillpoint
