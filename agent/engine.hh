// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/file.hh"
#include "common/program.hh"
#include "common/report.hh"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A dump tool that runs: its standard output is the dump.
class RunningDump {
 public:
  /// `errors` is a pipe with the tool's standard error. The tool's whole process group ends with this.
  /// `what` it is, for messages: "the dump tool".
  RunningDump(RunningProgram tool, UniqueFd output, UniqueFd errors, const char* what = "the dump tool") noexcept;
  /// Of a tool that has ended with success: `output` holds all that it wrote.
  explicit RunningDump(UniqueFd output) noexcept;

  /// Non-blocking; end of file means that the tool has closed it, not that it succeeded: ask finish().
  [[nodiscard]] int output() const noexcept { return output_.get(); }

  /// After end of file: waits (within the deadline, else kills) for the exit status. Empty when it succeeded, else why
  /// not, with the tail of the tool's standard error.
  [[nodiscard]] std::string finish(const Deadline& deadline);

 private:
  RunningProgram tool_;
  UniqueFd output_;
  Intake errors_;
  const char* what_;
  bool succeeded_ = false;
};

/// A server's own check of one of its databases, as it runs: what it finds wrong is its standard output.
struct RunningCheck {
  RunningDump run;
  std::string tool;  ///< "pg_amcheck"
};

/// One database server of the guest. All calls except cancel() come from one thread at a time (not always the same), in
/// the order of the states: prepare -> quiesce -> release -> dumps -> finish; finish() may come in any state.
class Engine {
 public:
  virtual ~Engine() = default;

  /// "postgresql", "mariadb" or "mysql", and what tells servers of one engine apart ("15-main").
  [[nodiscard]] virtual std::string_view engine() const = 0;
  [[nodiscard]] virtual std::string_view instance() const = 0;

  /// Whether a database of the report is this engine's. From any thread.
  [[nodiscard]] virtual bool reports(const DatabaseReport& database) const {
    return database.engine == engine() && database.instance == instance();
  }

  /// Opens sessions, lists databases, learns the lock order, flushes; with `for_dumps`, also makes ready what dumps
  /// need. Blocks no writer. A database that cannot be dumped is not an error: its DatabaseReport says so. Throws
  /// QuiesceError when the server cannot be used at all.
  virtual void prepare(bool for_dumps, const Deadline& deadline) = 0;

  /// What of whose servers no two are to be held at once: "galera-UUID"; empty for a server by itself. After prepare().
  [[nodiscard]] virtual std::string cluster() const { return {}; }

  /// Holds every writer and opens the database snapshots. On return the barrier stands for this server.
  /// Throws QuiesceError with nothing held.
  virtual void quiesce(const Deadline& deadline) = 0;

  /// Lets the writers go; the database snapshots stay open. Idempotent, bounded by `deadline`.
  virtual void release(const Deadline& deadline) noexcept = 0;

  /// Right after release(), when nobody waits any more: starts what is better started soon. Bounded.
  virtual void begin_dumps() noexcept {}

  /// What to attest; complete after quiesce().
  [[nodiscard]] virtual std::vector<DatabaseReport> report() const = 0;

  /// Starts (or hands out, when it was started before the barrier) the dump of that name. Throws NotFound,
  /// CaptureError.
  [[nodiscard]] virtual RunningDump start_dump(std::string_view name) = 0;

  /// Starts the server's own check of the database that this dump is of: also when the dump has been read. Throws
  /// NotFound when nothing is there that checks it, CaptureError.
  [[nodiscard]] virtual RunningCheck start_check(std::string_view name);

  /// Closes everything. Idempotent.
  virtual void finish() noexcept = 0;

  /// From any thread, at any time: makes the call under way fail soon. Touches no file system.
  virtual void cancel() noexcept = 0;
};

}  // namespace stillpoint
