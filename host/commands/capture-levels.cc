// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/capture-levels.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "host/capture/disk-capture.hh"
#include "host/capture/file-system-reader.hh"
#include "host/capture/tree-writer.hh"
#include "host/commands/progress.hh"
#include "host/commands/task-group.hh"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <semaphore>
#include <set>
#include <string>
#include <thread>

namespace stillpoint {

namespace {

/// A dump stream that delivers nothing for this long has failed; a lock that the tool waits for counts as silence too.
constexpr std::chrono::minutes dump_silence{10};

constexpr unsigned most_trees = 4;  // at once; each has threads of its own

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

/// A file system whose tree is to be written.
struct TreePlan {
  const DiskSource& source;
  FileSystem file_system;
  TreeRecord record;
  std::vector<std::string> warnings{};
};

/// What the captures of a still point's trees share.
struct TreeCapture {
  const TreeFilter& filter;
  const Manifest* parent;
  const std::filesystem::path& repository;
  TreeDirectory& trees;
  Progress& progress;
};

/// Where a file system lies below the guest's root; empty where that is not known.
std::string place_below_root(const std::string& mount_point) {
  return mount_point.substr(std::min(mount_point.find_first_not_of('/'), mount_point.size()));
}

void write_one_tree(const TreeCapture& capture, TreePlan& plan, const std::filesystem::path& target,
                    const std::stop_token& stop) {
  const auto line = capture.progress.line("tree " + plan.record.file_system);
  const auto disk = plan.source.open();
  StoppableReader stoppable(*disk, stop);
  SharedReader shared(stoppable);
  FileSystemReader reader(shared);
  TreeWriter writer(target, previous_tree(capture.parent, capture.repository, plan.record), shared,
                    TreeOwners::as_attributes);
  FilteredSink filtered(writer, capture.filter, place_below_root(plan.record.mount_point));
  WatchedSink sink(filtered, *line, stop);
  reader.walk(plan.file_system, "", true, sink);
  const TreeCounts counts = writer.finish();
  plan.record.entries = counts.entries;
  plan.record.bytes = counts.bytes;
  plan.record.files_written = counts.files_written;
  plan.record.bytes_written = counts.bytes_written;
  for (const auto* list : {&counts.warnings, &reader.warnings()})
    for (const std::string& text : *list)
      plan.warnings.push_back(fmt::format("tree of {}: {}", plan.record.file_system, text));
}

/// Writes one file system's tree. What is wrong with the guest's file system is the record's failure.
void capture_one_tree(const TreeCapture& capture, TreePlan& plan, const std::stop_token& stop) {
  TreeRecord& record = plan.record;
  const std::filesystem::path target = capture.trees.staging(tree_name(record.mount_point, record.file_system));
  try {
    write_one_tree(capture, plan, target, stop);
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
  if (!file_system.readable()) return fmt::format("{} is not read yet", file_system.type);
  if (!file_system.clean) return "its journal must be replayed first";
  return {};
}

bool holds_files(const FileSystem& file_system) {
  return !file_system.type.empty() && file_system.type != "swap";
}

/// After so many still points without it a dump begins anew.
constexpr std::size_t most_looked_at = 8;

/// The newest dump of each name that there is of this domain, of the last still points: one may lack what the one
/// before it had.
std::map<std::string, StreamMap> earlier_dumps(Repository& repository, const Manifest& manifest) {
  const auto wanted = [&](const DumpRecord& dump) {
    return dump.failure.empty() &&
           std::ranges::find(manifest.dumps, dump.name, &DumpRecord::name) != manifest.dumps.end();
  };
  std::map<std::string, StreamMap> found;
  const std::vector<StillPointSummary> all = repository.list(manifest.domain);
  std::size_t looked_at = 0;
  for (auto it = all.rbegin(); it != all.rend() && looked_at < most_looked_at; ++it, ++looked_at) {
    if (found.size() == manifest.dumps.size()) break;
    try {
      const Manifest earlier = repository.load(it->name);
      if (earlier.domain_uuid != manifest.domain_uuid) break;
      for (const DumpRecord& dump : earlier.dumps)
        if (wanted(dump)) found.try_emplace(dump.name, dump.map);
    } catch (const Error& e) {
      log_warning("no dump is built on {}: {}", it->name, e.what());
    }
  }
  return found;
}

/// A disk that cannot be looked at is a plan that has failed.
void plan_trees(const DiskSource& source, const std::vector<GuestFileSystem>& mounted, const TreeFilter& filter,
                std::vector<TreePlan>& plans, std::vector<std::string>& warnings) {
  try {
    const auto disk = source.open();
    FileSystemReader reader(*disk);
    for (const FileSystem& file_system : reader.file_systems()) {
      if (!holds_files(file_system)) continue;
      TreeRecord record;
      record.disk = source.target;
      record.file_system = file_system_name(source.target, file_system.partition);
      record.mount_point = mount_point_of(mounted, source.target, file_system.partition);
      std::string obstacle = tree_obstacle(file_system);
      if (obstacle.empty() && !filter.wants_directories(place_below_root(record.mount_point)))
        obstacle = "it is left out as asked";
      if (obstacle.empty())
        plans.push_back({source, file_system, std::move(record)});
      else
        warnings.push_back(fmt::format("no tree of {}: {}", record.file_system, obstacle));
    }
  } catch (const CaptureError& e) {
    TreeRecord unreadable;
    unreadable.disk = unreadable.file_system = source.target;
    unreadable.failure = e.what();
    plans.push_back({source, {}, std::move(unreadable)});
  }
}

class RepositoryDumpSink : public AgentClient::DumpSink {
 public:
  RepositoryDumpSink(Repository& repository, const std::optional<StreamMap>& base, DumpRecord& record,
                     std::unique_ptr<CaptureProgress> progress, const std::stop_token& stop)
      : writer_(repository.write_dump(base)), record_(record), progress_(std::move(progress)), stop_(stop) {}

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
                   const TreeFilter& filter, const Manifest* parent, const std::filesystem::path& repository,
                   TreeDirectory& trees, Progress& progress, std::vector<TreeRecord>& records,
                   std::vector<std::string>& warnings) {
  tasks.run([&disks, &mounted, &filter, parent, &repository, &trees, &progress, &records,
             &warnings](const std::stop_token& stop) {
    if (!filter.empty()) warnings.emplace_back("trees hold only what --include and --exclude have left of them");
    std::vector<TreePlan> plans;
    for (const DiskSource& source : disks)
      plan_trees(source, mounted, filter, plans, warnings);
    const TreeCapture capture{filter, parent, repository, trees, progress};
    std::counting_semaphore<> slots(std::clamp(std::thread::hardware_concurrency(), 1U, most_trees));
    TaskGroup at_once(stop);
    for (TreePlan& plan : plans)
      if (plan.record.failure.empty())
        at_once.run([&capture, &plan, &slots](const std::stop_token& stopped) {
          const SemaphoreHold slot(slots);
          if (stopped.stop_requested()) throw Interrupted("stopped before a tree was read");
          capture_one_tree(capture, plan, stopped);
        });
    at_once.wait();
    for (TreePlan& plan : plans) {
      warnings.insert(warnings.end(), plan.warnings.begin(), plan.warnings.end());
      records.push_back(std::move(plan.record));
    }
  });
}

void capture_dumps(TaskGroup& tasks, Repository& repository, AgentClient& agent, Progress& progress,
                   Manifest& manifest) {
  std::vector<DumpRecord>& records = manifest.dumps;
  std::set<std::string> distinct;
  for (const DatabaseReport& database : manifest.report->databases)
    if (!database.dump.empty() && database.exactness != Exactness::failed && distinct.insert(database.dump).second)
      records.push_back({database.dump, {}, 0, "the channel closed before it was complete"});
  tasks.run([&repository, &agent, id = manifest.report->id, &progress, &records,
             earlier = earlier_dumps(repository, manifest)](const std::stop_token& stop) {
    std::vector<std::string> names;
    for (const DumpRecord& record : records)
      names.push_back(record.name);
    const auto sink_for = [&](const std::string& name) -> std::unique_ptr<AgentClient::DumpSink> {
      const auto record =
          std::find_if(records.begin(), records.end(), [&](const DumpRecord& r) { return r.name == name; });
      const auto base = earlier.find(name);
      return std::make_unique<RepositoryDumpSink>(repository,
                                                  base == earlier.end() ? std::nullopt : std::optional(base->second),
                                                  *record, progress.line(name), stop);
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
