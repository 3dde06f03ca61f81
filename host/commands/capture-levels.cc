// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/capture-levels.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "host/capture/disk-capture.hh"
#include "host/commands/progress.hh"
#include "host/commands/semaphore-hold.hh"
#include "host/commands/task-group.hh"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <semaphore>
#include <set>
#include <string>

namespace stillpoint {

namespace {

/// A dump stream that delivers nothing for this long has failed; a lock that the tool waits for counts as silence too.
constexpr std::chrono::minutes dump_silence{10};

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
  record.rbd = source.rbd;
  return record;
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
