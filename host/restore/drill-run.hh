// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "host/restore/drill.hh"
#include "host/restore/dump-comparison.hh"

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

namespace stillpoint {

/// Stops when another one does, or at a deadline.
class TimedStop {
 public:
  TimedStop(const std::stop_token& outer, const Deadline& deadline);
  TimedStop(const TimedStop&) = delete;
  TimedStop& operator=(const TimedStop&) = delete;

  [[nodiscard]] std::stop_token token() const { return source_.get_token(); }
  [[nodiscard]] const Deadline& deadline() const noexcept { return deadline_; }
  /// Waits, unless it is stopped meanwhile. Throws Interrupted then.
  void pause(std::chrono::milliseconds time) const;

 private:
  struct Request {
    std::stop_source& source;
    void operator()() const { source.request_stop(); }
  };
  const Deadline deadline_;
  std::stop_source source_;
  std::stop_callback<Request> outer_;
  std::jthread timer_;
};

/// A database that a still point says it holds.
struct ExpectedDatabase {
  const DatabaseReport* attested = nullptr;
  const DumpRecord* stored = nullptr;  ///< null when there is none to compare with
  bool strict = false;                 ///< a difference between its dumps is damage

  /// "postgresql/15-main/app"
  [[nodiscard]] const std::string& dump() const { return attested->dump; }
};
[[nodiscard]] std::vector<ExpectedDatabase> expected_databases(const Manifest& manifest);

/// What both kinds of drills share: the record, and what is looked at without recovering anything.
class DrillRun {
 public:
  DrillRun(Repository& repository, const Manifest& manifest, const ServedDisk& access, const DrillRequest& request,
           const DrillObserver& observer, const std::stop_token& stop);

  /// Runs all of it: what is thrown on the way is a failed step. Throws what is nobody's fault but ours; Interrupted.
  [[nodiscard]] DrillRecord run(const std::function<void()>& recover);

  /// Without a guest.
  void recovers_offline() { record_.booted = false; }
  [[nodiscard]] std::unique_ptr<CaptureProgress> line(const std::string& name) const {
    return observer_.progress(name);
  }

  /// What is being looked at, should it throw.
  void stage(DrillStep::Kind kind, std::string name);
  void add(DrillStep step);
  void add(DrillStep::Kind kind, std::string name, DrillStep::Outcome outcome, std::string detail,
           SteadyClock::time_point since);

  /// A comparison with a stored dump, and what it makes of the end of the other one.
  [[nodiscard]] std::unique_ptr<DumpComparison> compare(const ExpectedDatabase& database);
  void judge(const ExpectedDatabase& database, DumpComparison* comparison, std::uint64_t bytes,
             const std::string& failure, const DatabaseReport* recovered, SteadyClock::time_point since);

  [[nodiscard]] const TimedStop& stop() const noexcept { return stop_; }
  /// By somebody, not by its own time limit.
  [[nodiscard]] bool interrupted() const noexcept { return outer_.stop_requested(); }
  [[nodiscard]] const DrillRequest& request() const noexcept { return request_; }
  [[nodiscard]] const Manifest& manifest() const noexcept { return manifest_; }
  [[nodiscard]] const ServedDisk& access() const noexcept { return access_; }
  [[nodiscard]] Repository& repository() const noexcept { return repository_; }
  /// File systems that only a guest can mount: "vda1", "xfs".
  struct Unchecked {
    std::string name;
    std::string type;
  };
  [[nodiscard]] const std::vector<Unchecked>& unchecked() const noexcept { return unchecked_; }

 private:
  void check_disks();
  void check_file_systems(const DiskRecord& disk);
  void check_one_disk(const DiskRecord& disk);

  Repository& repository_;
  const Manifest& manifest_;
  const ServedDisk& access_;
  const DrillRequest& request_;
  const DrillObserver& observer_;
  const std::stop_token outer_;
  TimedStop stop_;
  DrillRecord record_;
  SteadyClock::time_point begun_ = SteadyClock::now();
  DrillStep present_;
  std::vector<Unchecked> unchecked_;
};

}  // namespace stillpoint
