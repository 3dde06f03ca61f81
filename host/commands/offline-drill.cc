// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/offline-drill.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "host/commands/copy-out.hh"
#include "host/commands/guest-files.hh"
#include "host/commands/guest-path.hh"
#include "host/restore/drill-run.hh"
#include "host/restore/offline-server.hh"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace stillpoint {

namespace {

namespace fs = std::filesystem;
using StepKind = DrillStep::Kind;
using StepOutcome = DrillStep::Outcome;
using Databases = std::vector<const ExpectedDatabase*>;

/// What is on a private path and goes with the scope.
class WorkDirectory {
 public:
  WorkDirectory() : path_(fs::temp_directory_path() / ("stillpoint-drill-" + random_id())) {
    if (::mkdir(path_.c_str(), 0700) != 0)
      throw_errno<StorageError>(fmt::format("cannot make the directory {}", path_.native()));
  }
  WorkDirectory(const WorkDirectory&) = delete;
  WorkDirectory& operator=(const WorkDirectory&) = delete;
  ~WorkDirectory() {
    std::error_code failure;
    fs::remove_all(path_, failure);
    if (failure) log_warning("cannot delete {}: {}", path_.native(), failure.message());
  }
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// Where servers have their data by default, for still points that do not say.
std::string usual_directory(const DatabaseReport& server) {
  if (server.engine != "postgresql") return "/var/lib/mysql";
  const std::size_t dash = server.instance.find('-');
  return fmt::format("/var/lib/postgresql/{}/{}", server.instance.substr(0, dash),
                     dash == std::string::npos ? "main" : server.instance.substr(dash + 1));
}

class OfflineDrill {
 public:
  explicit OfflineDrill(DrillRun& run)
      : run_(run), expected_(expected_databases(run.manifest())), files_(run.repository(), run.manifest()) {}

  void recover();

 private:
  void recover_server(const Databases& databases);
  void run_server(OfflineServer& server, const Databases& databases, const std::string& version,
                  SteadyClock::time_point since);
  void look_at(OfflineServer& server, const ExpectedDatabase& database, const std::string& version);
  void check(OfflineServer& server, const ExpectedDatabase& database);
  [[nodiscard]] GuestFiles::Place find_directory(const DatabaseReport& server);
  void copy_directory(const GuestFiles::Place& place, const fs::path& work);
  void copy_linked(const GuestFiles::Place& place, const fs::path& link, const fs::path& work, const std::string& name);
  void skip(const Databases& databases, const std::string& why);

  DrillRun& run_;
  const std::vector<ExpectedDatabase> expected_;
  GuestFiles files_;
  bool recovered_ = false;
};

void OfflineDrill::recover() {
  for (const DrillRun::Unchecked& system : run_.unchecked())
    run_.add(StepKind::file_system, system.name, StepOutcome::skipped, fmt::format("{}: not checked", system.type),
             SteadyClock::now());
  std::map<std::pair<std::string, std::string>, Databases> servers;
  for (const ExpectedDatabase& database : expected_)
    servers[{database.attested->engine, database.attested->instance}].push_back(&database);
  for (const auto& [name, databases] : servers)
    recover_server(databases);
  if (!expected_.empty() && !recovered_) {
    run_.stage(StepKind::database, expected_.front().dump());
    throw CaptureError("none of the databases could be recovered on this host");
  }
}

void OfflineDrill::skip(const Databases& databases, const std::string& why) {
  for (const ExpectedDatabase* database : databases)
    run_.add(StepKind::database, database->dump(), StepOutcome::skipped, why, SteadyClock::now());
}

void OfflineDrill::recover_server(const Databases& databases) {
  const DatabaseReport& server = *databases.front()->attested;
  run_.stage(StepKind::database, databases.front()->dump());
  std::optional<OfflinePrograms> programs;
  std::optional<GuestFiles::Place> place;
  try {
    programs = find_offline_programs(server);
    place = find_directory(server);
  } catch (const NotFound& error) {
    return skip(databases, error.what());
  } catch (const CaptureError& error) {
    return skip(databases, error.what());
  }
  const WorkDirectory work;
  copy_directory(*place, work.path());
  const auto since = SteadyClock::now();
  OfflineServer started(*programs, work.path());
  run_server(started, databases, programs->version, since);
}

void OfflineDrill::run_server(OfflineServer& server, const Databases& databases, const std::string& version,
                              SteadyClock::time_point since) {
  const Deadline answered_by = Deadline(run_.request().answer_within).at_most(run_.stop().deadline().left());
  try {
    server.await(answered_by, run_.stop().token());
  } catch (const CaptureError& error) {
    for (const ExpectedDatabase* database : databases)
      run_.add(StepKind::database, database->dump(), StepOutcome::failed, error.what(), since);
    return;
  }
  recovered_ = true;
  for (const ExpectedDatabase* database : databases)
    run_.add(StepKind::database, database->dump(), StepOutcome::passed,
             fmt::format("recovered by {} of this host", version), since);
  for (const ExpectedDatabase* database : databases)
    look_at(server, *database, version);
  for (const ExpectedDatabase* database : databases)
    check(server, *database);
}

void OfflineDrill::look_at(OfflineServer& server, const ExpectedDatabase& database, const std::string& version) {
  run_.stage(StepKind::dump, database.dump());
  const auto since = SteadyClock::now();
  const DatabaseReport& attested = *database.attested;
  if (attested.engine != "postgresql" && (attested.database.empty() || attested.database.starts_with('@')))
    return run_.add(StepKind::dump, database.dump(), StepOutcome::skipped, "not dumped without the guest", since);
  const std::unique_ptr<DumpComparison> comparison = run_.compare(database);
  std::uint64_t bytes = 0;
  const std::string failure = server.dump(
      attested,
      [&](std::span<const std::byte> part) {
        bytes += part.size();
        if (comparison) comparison->write(part);
      },
      run_.stop().deadline(), run_.stop().token());
  // A database whose locale this host does not have tells nothing of the still point.
  if (failure.find("locale") != std::string::npos)
    return run_.add(StepKind::dump, database.dump(), StepOutcome::skipped, failure, since);
  run_.judge(database, comparison.get(), bytes, failure, nullptr, since);
  if (!attested.server_version.starts_with(version)) log_debug("recovered by another release: {}", version);
}

void OfflineDrill::check(OfflineServer& server, const ExpectedDatabase& database) {
  const DatabaseReport& attested = *database.attested;
  if (attested.database.empty() || attested.database.starts_with('@')) return;
  run_.stage(StepKind::check, database.dump());
  const auto since = SteadyClock::now();
  std::string tool;
  std::string findings;
  const std::string failure = server.check(attested, tool, findings, run_.stop().deadline(), run_.stop().token());
  std::ranges::replace(findings, '\n', ' ');
  if (failure.empty() && findings.empty())
    run_.add(StepKind::check, database.dump(), StepOutcome::passed, fmt::format("{} finds nothing wrong", tool), since);
  else
    run_.add(StepKind::check, database.dump(), StepOutcome::failed,
             fmt::format("{}: {}", tool, findings.empty() ? failure : findings), since);
}

/// By its path, or below where a file system may have been mounted when nobody knows that.
GuestFiles::Place OfflineDrill::find_directory(const DatabaseReport& server) {
  const std::string path = server.data_directory.empty() ? usual_directory(server) : server.data_directory;
  const char* mark = server.engine == "postgresql" ? "PG_VERSION" : "ibdata1";
  const auto try_at = [&](const std::string& system, const std::string& below) -> std::optional<GuestFiles::Place> {
    try {
      static_cast<void>(files_.find(system, below + "/" + mark, true));
      return files_.find(system, below, true);
    } catch (const NotFound&) {
      return std::nullopt;
    }
  };
  if (std::optional<GuestFiles::Place> place = try_at({}, path)) return std::move(*place);
  for (const GuestFiles::Named& named : files_.file_systems()) {
    if (!named.file_system.readable()) continue;
    for (std::deque<std::string> parts = path_parts(path); !parts.empty(); parts.pop_front())
      if (std::optional<GuestFiles::Place> place = try_at(named.name, joined_path({parts.begin(), parts.end()})))
        return std::move(*place);
  }
  throw NotFound(fmt::format("{} is in none of the file systems that can be read", path));
}

void OfflineDrill::copy_directory(const GuestFiles::Place& place, const fs::path& work) {
  const std::unique_ptr<CaptureProgress> progress = run_.line(place.path);
  const fs::path data = work / "data";
  static_cast<void>(copy_out(files_, place, data, {}, *progress));
  if (run_.stop().token().stop_requested()) throw Interrupted("stopped while a data directory was copied");
  // PostgreSQL's log and tablespaces may lie elsewhere.
  if (fs::is_symlink(fs::symlink_status(data / "pg_wal"))) copy_linked(place, data / "pg_wal", work, "pg_wal");
  const fs::path spaces = data / "pg_tblspc";
  if (!fs::is_directory(fs::symlink_status(spaces))) return;
  std::vector<fs::path> links;
  for (const fs::directory_entry& entry : fs::directory_iterator(spaces))
    if (entry.is_symlink()) links.push_back(entry.path());
  for (const fs::path& link : links)
    copy_linked(place, link, work, "tablespace-" + link.filename().native());
}

void OfflineDrill::copy_linked(const GuestFiles::Place& place, const fs::path& link, const fs::path& work,
                               const std::string& name) {
  const std::unique_ptr<CaptureProgress> progress = run_.line(name);
  const std::string target = fs::read_symlink(link).native();
  std::optional<GuestFiles::Place> found;
  try {
    found = files_.find({}, target, true);
  } catch (const NotFound&) {
    found = files_.find(place.file_system, target, true);
  }
  static_cast<void>(copy_out(files_, *found, work / name, {}, *progress));
  fs::remove(link);
  fs::create_symlink(fs::path("/work") / name, link);
}

}  // namespace

DrillRecord drill_offline(Repository& repository, const Manifest& manifest, const ServedDisk& access,
                          const DrillRequest& request, const DrillObserver& observer, const std::stop_token& stop) {
  DrillRun run(repository, manifest, access, request, observer, stop);
  run.recovers_offline();
  return run.run([&] { OfflineDrill(run).recover(); });
}

}  // namespace stillpoint
