// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/drill-run.hh"

#include "common/errors.hh"
#include "config.hh"
#include "host/capture/file-system-reader.hh"
#include "host/restore/disk-check.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string_view>
#include <utility>

namespace stillpoint {

namespace {

using StepKind = DrillStep::Kind;
using StepOutcome = DrillStep::Outcome;

/// Whose dumps of the same rows are the same bytes.
constexpr std::array<std::string_view, 4> comparable_engines{"postgresql", "mariadb", "mysql", "sqlite"};
/// What recovery brings back otherwise than a dump shows it.
constexpr std::array<std::string_view, 4> recovered_otherwise{"non-transactional-table", "broken-table",
                                                              "unpinned-table", "sequence"};
constexpr std::chrono::minutes file_system_limit{60};

bool is_strict(const DatabaseReport& database) {
  if (database.exactness != Exactness::exact) return false;
  if (std::ranges::find(comparable_engines, database.engine) == comparable_engines.end()) return false;
  return std::ranges::none_of(database.not_covered, [](const NotCovered& what) {
    return std::ranges::find(recovered_otherwise, what.kind) != recovered_otherwise.end();
  });
}

/// Sequences that the recovered database has otherwise than the still point attests; empty when it has them as it
/// should.
std::string sequence_differences(const DatabaseReport& attested, const DatabaseReport& recovered) {
  std::map<std::string, const SequenceValue*> values;
  for (const SequenceValue& sequence : recovered.sequences)
    values[sequence.name] = &sequence;
  const auto text = [](const SequenceValue& value) {
    return fmt::format("{}{}", value.last_value, value.is_called ? "" : " (not called)");
  };
  for (const SequenceValue& sequence : attested.sequences) {
    const auto found = values.find(sequence.name);
    const std::string now = found == values.end() ? "missing" : text(*found->second);
    if (now != text(sequence))
      return fmt::format("sequence {}: attested {}, recovered {}", sequence.name, text(sequence), now);
  }
  return {};
}

std::string name_of(const DiskRecord& disk, const FileSystem& system) {
  if (system.partition == 0) return disk.target;
  const bool digit = disk.target.back() >= '0' && disk.target.back() <= '9';
  return fmt::format("{}{}{}", disk.target, digit ? "p" : "", system.partition);
}

}  // namespace

TimedStop::TimedStop(const std::stop_token& outer, const Deadline& deadline)
    : deadline_(deadline), outer_(outer, Request{source_}), timer_([this](const std::stop_token& ended) {
        std::mutex mutex;
        std::condition_variable_any changed;
        std::unique_lock lock(mutex);
        changed.wait_until(lock, ended, deadline_.at(), [] { return false; });
        if (!ended.stop_requested()) source_.request_stop();
      }) {}

void TimedStop::pause(std::chrono::milliseconds time) const {
  std::mutex mutex;
  std::condition_variable_any changed;
  std::unique_lock lock(mutex);
  changed.wait_for(lock, token(), time, [] { return false; });
  if (token().stop_requested()) throw Interrupted("stopped");
}

std::vector<ExpectedDatabase> expected_databases(const Manifest& manifest) {
  std::vector<ExpectedDatabase> expected;
  if (!manifest.report) return expected;
  for (const DatabaseReport& database : manifest.report->databases) {
    if (database.dump.empty()) continue;
    const auto stored = std::ranges::find_if(
        manifest.dumps, [&](const DumpRecord& dump) { return dump.name == database.dump && dump.failure.empty(); });
    expected.push_back({&database, stored == manifest.dumps.end() ? nullptr : &*stored, is_strict(database)});
  }
  return expected;
}

DrillRun::DrillRun(Repository& repository, const Manifest& manifest, const ServedDisk& access,
                   const DrillRequest& request, const DrillObserver& observer, const std::stop_token& stop)
    : repository_(repository),
      manifest_(manifest),
      access_(access),
      request_(request),
      observer_(observer),
      outer_(stop),
      stop_(stop, Deadline(request.timeout)) {
  record_.still_point = manifest.id;
  record_.name = manifest.name;
  record_.at = wall_now();
  record_.program_version = STILLPOINT_VERSION;
}

void DrillRun::stage(StepKind kind, std::string name) {
  present_.kind = kind;
  present_.name = std::move(name);
}

void DrillRun::add(DrillStep step) {
  record_.steps.push_back(std::move(step));
  observer_.step(record_.steps.back());
}

void DrillRun::add(StepKind kind, std::string name, StepOutcome outcome, std::string detail,
                   SteadyClock::time_point since) {
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - since);
  add({kind, std::move(name), outcome, std::move(detail), took});
}

DrillRecord DrillRun::run(const std::function<void()>& recover) {
  const auto failed = [](const DrillStep& step) { return step.outcome == StepOutcome::failed; };
  const auto stage_begun = SteadyClock::now();
  try {
    check_disks();
    // On damaged disks a guest tells nothing more, and may take long for it.
    if (std::ranges::none_of(record_.steps, [&](const DrillStep& s) { return s.kind == StepKind::disk && failed(s); }))
      recover();
  } catch (const Interrupted&) {
    if (outer_.stop_requested()) throw;
    add(present_.kind, present_.name, StepOutcome::failed,
        fmt::format("it was not over {} s after the drill began", request_.timeout.count() / 1000), stage_begun);
  } catch (const Error& error) {
    // Those are of this host, and tell nothing of the still point.
    for (const ExitCode code : {ExitCode::usage, ExitCode::configuration, ExitCode::storage, ExitCode::locked})
      if (error.exit_code() == code) throw;
    add(present_.kind, present_.name, StepOutcome::failed, error.what(), stage_begun);
  }
  record_.passed = std::ranges::none_of(record_.steps, failed);
  record_.took = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun_);
  return std::move(record_);
}

void DrillRun::check_disks() {
  for (const DiskRecord& disk : manifest_.disks)
    check_one_disk(disk);
  for (const DiskRecord& disk : manifest_.disks)
    check_file_systems(disk);
}

void DrillRun::check_one_disk(const DiskRecord& disk) {
  if (!request_.read_disks) return;
  stage(StepKind::disk, disk.target);
  const auto since = SteadyClock::now();
  try {
    const std::unique_ptr<BlockReader> reader = repository_.open_disk(disk.map);
    const std::unique_ptr<CaptureProgress> progress = observer_.progress(disk.target);
    const std::uint64_t bytes = read_whole_disk(*reader, *progress, stop_.token());
    add(StepKind::disk, disk.target, StepOutcome::passed,
        fmt::format("every chunk is as it was written, {} bytes", bytes), since);
  } catch (const Corruption& error) {
    add(StepKind::disk, disk.target, StepOutcome::failed, error.what(), since);
  }
}

void DrillRun::check_file_systems(const DiskRecord& disk) {
  stage(StepKind::file_system, disk.target);
  const auto since = SteadyClock::now();
  std::vector<FileSystem> found;
  try {
    const std::unique_ptr<BlockReader> reader = repository_.open_disk(disk.map);
    found = FileSystemReader(*reader).file_systems();
  } catch (const CaptureError& error) {
    add(StepKind::file_system, disk.target, StepOutcome::skipped, error.what(), since);
    return;
  } catch (const Corruption& error) {
    add(StepKind::file_system, disk.target, StepOutcome::failed, error.what(), since);
    return;
  }
  std::optional<DiskFile> file;
  for (const FileSystem& system : found) {
    const std::string name = name_of(disk, system);
    if (!system.readable()) {
      if (!system.type.empty() && system.type != "swap") unchecked_.push_back({name, system.type});
      continue;
    }
    const auto begun = SteadyClock::now();
    try {
      if (!file) {
        ServedDisk served = access_;
        served.disk = disk.target;
        file.emplace(served, std::filesystem::temp_directory_path() / ("stillpoint-drill-" + random_id()));
      }
    } catch (const Error& error) {
      add(StepKind::file_system, name, StepOutcome::skipped, error.what(), begun);
      return;
    }
    const Deadline limit(std::min<std::chrono::milliseconds>(stop_.deadline().left(), file_system_limit));
    DrillStep step = check_ext(file->path(), system.offset, name, limit, stop_.token());
    add(step.kind, step.name, step.outcome, step.detail, begun);
  }
}

std::unique_ptr<DumpComparison> DrillRun::compare(const ExpectedDatabase& database) {
  if (database.stored == nullptr) return nullptr;
  return std::make_unique<DumpComparison>(
      [&repository = repository_, map = database.stored->map](const DumpComparison::Consumer& consumer) {
        repository.read_dump(map, consumer);
      });
}

void DrillRun::judge(const ExpectedDatabase& database, DumpComparison* comparison, std::uint64_t bytes,
                     const std::string& failure, const DatabaseReport* recovered, SteadyClock::time_point since) {
  const auto told = [&](StepOutcome outcome, std::string detail) {
    add(StepKind::dump, database.dump(), outcome, std::move(detail), since);
  };
  if (!failure.empty()) return told(StepOutcome::failed, failure);
  if (comparison == nullptr)
    return told(StepOutcome::passed, fmt::format("read to its end, {} bytes; none is stored to compare with", bytes));
  std::string difference;
  try {
    difference = comparison->finish();
  } catch (const Corruption& error) {
    return told(StepOutcome::failed, fmt::format("the stored dump cannot be read: {}", error.what()));
  }
  if (difference.empty() && database.strict && recovered != nullptr)
    difference = sequence_differences(*database.attested, *recovered);
  if (difference.empty()) return told(StepOutcome::passed, fmt::format("equal to the stored dump, {} bytes", bytes));
  if (!database.strict)
    return told(StepOutcome::skipped,
                fmt::format("{}; this still point does not promise that it is equal ({})", difference,
                            database.attested->reason.empty() ? to_string(database.attested->exactness)
                                                              : database.attested->reason));
  if (recovered != nullptr && recovered->exactness != Exactness::exact)
    difference += fmt::format(" (and in the drill it was {}: {})", to_string(recovered->exactness), recovered->reason);
  told(StepOutcome::failed, difference);
}

}  // namespace stillpoint
