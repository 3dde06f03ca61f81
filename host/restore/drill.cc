// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/drill.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "host/guest/agent-client.hh"
#include "host/guest/domain-xml.hh"
#include "host/guest/freeze-window.hh"
#include "host/restore/drill-run.hh"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;
using StepKind = DrillStep::Kind;
using StepOutcome = DrillStep::Outcome;

constexpr std::chrono::milliseconds guest_interval = 500ms;
constexpr std::chrono::milliseconds database_interval = 1s;
/// For one try to reach the agent: its unit may start late.
constexpr std::chrono::milliseconds agent_try = 15s;
constexpr std::chrono::milliseconds prepare_limit = 90s;
constexpr std::chrono::milliseconds report_limit = 15s;
/// A tool may wait long for its first row.
constexpr std::chrono::milliseconds dump_silence = 10min;
/// A freeze may fail in a guest that is still busy with its start.
constexpr int most_freezes = 3;
constexpr std::size_t most_findings_of_check = 2000;
constexpr std::string_view guest_agent_port = "org.qemu.guest_agent.0";

/// A database as both reports and prepared lists name it.
using DatabaseKey = std::array<std::string, 3>;
DatabaseKey key_of(const DatabaseReport& database) {
  return {database.engine, database.instance, database.database};
}

std::string database_words(const DatabaseReport& database) {
  return database.dump.empty() ? fmt::format("{}/{}/{}", database.engine, database.instance, database.database)
                               : database.dump;
}

/// A drill of a booted guest.
class BootDrill {
 public:
  BootDrill(DrillRun& run, Connection& libvirt)
      : run_(run), libvirt_(libvirt), expected_(expected_databases(run.manifest())) {}

  void recover();

 private:
  class ComparedDump;
  class CheckedDatabase;

  void await_guest(const Domain& domain);
  void look_at_mounts(const Domain& domain);
  [[nodiscard]] std::unique_ptr<AgentClient> meet_agent(const Domain& domain);
  void note_ready(const PreparedDatabases& prepared);
  void tell_missing();
  void take_instant(const Domain& domain, AgentClient& agent);
  void compare_dumps(AgentClient& agent);
  void check_databases(AgentClient& agent);
  [[nodiscard]] const DatabaseReport* recovered(const std::string& dump) const;
  [[nodiscard]] const ExpectedDatabase& expected(const std::string& dump) const;

  DrillRun& run_;
  Connection& libvirt_;
  const std::vector<ExpectedDatabase> expected_;
  SteadyClock::time_point begun_;
  std::optional<Deadline> answered_by_;
  std::string id_;
  std::set<DatabaseKey> ready_;
  std::map<DatabaseKey, std::string> unready_;  ///< and why
  Report report_;
};

/// Ends the domain when the scope is left, unless somebody wants to look at it.
class BootedScope {
 public:
  BootedScope(Connection& libvirt, const DrillRun& run) : libvirt_(libvirt), run_(run) {}
  BootedScope(const BootedScope&) = delete;
  BootedScope& operator=(const BootedScope&) = delete;
  ~BootedScope() {
    const DrillRequest& request = run_.request();
    if (request.keep && !run_.interrupted()) return;
    try {
      remove_booted(libvirt_, request.boot);
    } catch (const std::exception& error) {
      log_error("the drill's domain {} is left: {}", request.boot.name, error.what());
    }
  }

 private:
  Connection& libvirt_;
  const DrillRun& run_;
};

class BootDrill::ComparedDump : public DumpSink {
 public:
  ComparedDump(BootDrill& drill, const std::string& name)
      : drill_(drill), name_(name), comparison_(drill.run_.compare(drill.expected(name))) {}
  void write(std::span<const std::byte> bytes) override {
    bytes_ += bytes.size();
    if (comparison_) comparison_->write(bytes);
  }
  void end(const std::string& failure) override {
    drill_.run_.judge(drill_.expected(name_), comparison_.get(), bytes_, failure, drill_.recovered(name_), begun_);
  }

 private:
  BootDrill& drill_;
  const std::string name_;
  std::unique_ptr<DumpComparison> comparison_;
  std::uint64_t bytes_ = 0;
  SteadyClock::time_point begun_ = SteadyClock::now();
};

class BootDrill::CheckedDatabase : public DumpSink {
 public:
  CheckedDatabase(BootDrill& drill, std::string name) : drill_(drill), name_(std::move(name)) {}
  void write(std::span<const std::byte> bytes) override {
    findings_ += as_text(bytes.first(std::min(bytes.size(), most_findings_of_check - findings_.size())));
  }
  void checked_by(const std::string& tool) override { tool_ = tool; }
  void end(const std::string& failure) override {
    if (tool_.empty())
      tell(StepOutcome::skipped, failure == "this request is not known"
                                     ? "the agent in this still point is older than checks: only the dump was read"
                                     : failure);
    else if (failure.empty() && findings_.empty())
      tell(StepOutcome::passed, fmt::format("{} finds nothing wrong", tool_));
    else
      tell(StepOutcome::failed, fmt::format("{}: {}", tool_, findings_.empty() ? failure : one_line(findings_)));
  }

 private:
  static std::string one_line(std::string text) {
    std::ranges::replace(text, '\n', ' ');
    while (text.ends_with(' '))
      text.pop_back();
    return text;
  }
  void tell(StepOutcome outcome, std::string detail) {
    drill_.run_.add(StepKind::check, name_, outcome, std::move(detail), begun_);
  }

  BootDrill& drill_;
  const std::string name_;
  std::string tool_;
  std::string findings_;
  SteadyClock::time_point begun_ = SteadyClock::now();
};

void BootDrill::recover() {
  const std::string& name = run_.request().boot.name;
  run_.stage(StepKind::guest, name);
  const DomainDefinition definition = parse_domain_xml(run_.manifest().domain_xml, false);
  if (std::ranges::find(definition.channels, guest_agent_port, &DomainChannel::name) == definition.channels.end())
    throw Unreachable("the domain has no channel for qemu-ga, so nobody can say that the guest is there");
  // Nothing of boot() is left when it throws.
  begun_ = SteadyClock::now();
  BootRequest request = run_.request().boot;
  request.state = load_state(run_.repository(), run_.manifest());
  const Booted booted = boot(libvirt_, run_.manifest(), run_.access(), request, run_.stop().token());
  const BootedScope scope(libvirt_, run_);
  answered_by_.emplace(run_.request().answer_within);
  await_guest(booted.domain);
  look_at_mounts(booted.domain);
  if (expected_.empty()) return;
  run_.stage(StepKind::database, database_words(*expected_.front().attested));
  const std::unique_ptr<AgentClient> agent = meet_agent(booted.domain);
  take_instant(booted.domain, *agent);
  compare_dumps(*agent);
  check_databases(*agent);
  agent->finish(id_);
}

void BootDrill::await_guest(const Domain& domain) {
  for (;;) {
    if (!domain.running()) throw Unreachable("the guest ended while it came up");
    const std::string fault = domain.guest_agent_fault();
    if (fault.empty()) break;
    if (answered_by_->passed())
      throw Unreachable(
          fmt::format("the guest did not come up within {} s: {}", run_.request().answer_within.count() / 1000, fault));
    run_.stop().pause(guest_interval);
  }
}

void BootDrill::look_at_mounts(const Domain& domain) {
  const std::vector<GuestFileSystem> mounted = domain.guest_file_systems();
  std::vector<std::string> points;
  for (const GuestFileSystem& system : mounted)
    points.push_back(system.mount_point);
  run_.add(StepKind::guest, run_.request().boot.name, StepOutcome::passed,
           fmt::format("qemu-ga answers, mounted are {}",
                       points.empty() ? "none" : fmt::format("{}", fmt::join(points, " "))),
           begun_);
  const auto now = SteadyClock::now();
  for (const DrillRun::Unchecked& system : run_.unchecked()) {
    const auto found = std::ranges::find(mounted, system.name, &GuestFileSystem::device);
    if (found != mounted.end())
      run_.add(StepKind::file_system, system.name, StepOutcome::passed,
               fmt::format("{}: the guest has mounted it on {}", system.type, found->mount_point), now);
    else
      run_.add(StepKind::file_system, system.name, StepOutcome::skipped, fmt::format("{}: not checked", system.type),
               now);
  }
  for (const TreeRecord& tree : run_.manifest().trees)
    if (!tree.mount_point.empty() && std::ranges::find(points, tree.mount_point) == points.end())
      run_.add(StepKind::file_system, tree.file_system, StepOutcome::skipped,
               fmt::format("it was mounted on {} at the still point, and is not after a boot", tree.mount_point), now);
}

std::unique_ptr<AgentClient> BootDrill::meet_agent(const Domain& domain) {
  for (;;) {
    try {
      return std::make_unique<AgentClient>(domain, answered_by_->at_most(agent_try));
    } catch (const Unreachable& error) {
      if (answered_by_->passed() || !domain.running()) throw;
    }
    run_.stop().pause(database_interval);
  }
}

void BootDrill::note_ready(const PreparedDatabases& prepared) {
  std::map<DatabaseKey, const PreparedDatabase*> found;
  for (const PreparedDatabase& database : prepared.databases)
    found[{database.engine, database.instance, database.database}] = &database;
  for (const ExpectedDatabase& database : expected_) {
    const DatabaseKey key = key_of(*database.attested);
    if (ready_.contains(key)) continue;
    const auto is = found.find(key);
    // One that is not exact may never be called ready.
    if (is != found.end() && (is->second->ready || database.attested->exactness != Exactness::exact)) {
      ready_.insert(key);
      run_.add(StepKind::database, database.dump(), StepOutcome::passed, "it answers", begun_);
      continue;
    }
    const auto server = std::ranges::find_if(prepared.databases, [&](const PreparedDatabase& it) {
      return it.engine == key[0] && it.instance == key[1] && !it.reason.empty();
    });
    unready_[key] = is != found.end()                    ? is->second->reason
                    : server != prepared.databases.end() ? server->reason
                    : prepared.warnings.empty()          ? "the agent finds no such database"
                                                         : prepared.warnings.front();
  }
}

void BootDrill::tell_missing() {
  for (const ExpectedDatabase& database : expected_)
    if (const DatabaseKey key = key_of(*database.attested); ready_.insert(key).second)
      run_.add(StepKind::database, database.dump(), StepOutcome::failed,
               fmt::format("it does not answer: {}", unready_[key]), begun_);
}

/// A still point within the drill: what its dumps show is what was recovered.
void BootDrill::take_instant(const Domain& domain, AgentClient& agent) {
  std::string why;
  int late = 0;
  for (int freezes = 0;;) {
    id_ = random_id();
    try {
      note_ready(agent.prepare(id_, Deadline(prepare_limit)));
      const bool all = ready_.size() == expected_.size();
      if (!all && answered_by_->passed()) tell_missing();
      if (all || answered_by_->passed()) {
        ++freezes;
        FrozenGuest frozen(domain);
        frozen.thaw();
        report_ = agent.report(id_, Deadline(report_limit));
        if (report_.quiesced && !report_.watchdog_fired) return;
        why = report_.failure.empty() ? "the guest's watchdog ended the freeze" : report_.failure;
      }
    } catch (const QuiesceError& error) {
      why = error.what();
    }
    agent.finish(id_);
    if (freezes == most_freezes) throw QuiesceError(why);
    if (answered_by_->passed() && ++late > most_freezes) throw QuiesceError(why);
    run_.stop().pause(database_interval);
  }
}

const DatabaseReport* BootDrill::recovered(const std::string& dump) const {
  const auto found = std::ranges::find(report_.databases, dump, &DatabaseReport::dump);
  return found == report_.databases.end() ? nullptr : &*found;
}

const ExpectedDatabase& BootDrill::expected(const std::string& dump) const {
  return *std::ranges::find(expected_, dump, &ExpectedDatabase::dump);
}

void BootDrill::compare_dumps(AgentClient& agent) {
  std::vector<std::string> names;
  for (const ExpectedDatabase& database : expected_) {
    run_.stage(StepKind::dump, database.dump());
    if (recovered(database.dump()) != nullptr) {
      names.push_back(database.dump());
      continue;
    }
    std::string reason = "the agent has no dump of it";
    for (const DatabaseReport& entry : report_.databases)
      if (key_of(entry) == key_of(*database.attested) && !entry.reason.empty()) reason = entry.reason;
    run_.add(StepKind::dump, database.dump(), StepOutcome::failed, reason, SteadyClock::now());
  }
  agent.run_dumps(
      id_, names, [this](const std::string& name) { return std::make_unique<ComparedDump>(*this, name); }, dump_silence,
      run_.stop().token());
}

void BootDrill::check_databases(AgentClient& agent) {
  std::vector<std::string> names;
  for (const ExpectedDatabase& database : expected_) {
    // Roles and the like are no database that could be checked.
    const bool checkable = database.attested->engine != "postgresql" || !database.attested->database.empty();
    if (checkable && recovered(database.dump()) != nullptr) names.push_back(database.dump());
  }
  if (!names.empty()) run_.stage(StepKind::check, names.front());
  // A check is silent until it is over.
  agent.run_checks(
      id_, names, [this](const std::string& name) { return std::make_unique<CheckedDatabase>(*this, name); },
      run_.stop().deadline().left(), run_.stop().token());
}

}  // namespace

DrillRecord drill_by_boot(Connection& libvirt, Repository& repository, const Manifest& manifest,
                          const ServedDisk& access, const DrillRequest& request, const DrillObserver& observer,
                          const std::stop_token& stop) {
  if (libvirt.has(request.boot.name))
    throw Locked(fmt::format("there is a domain {} already: another drill runs, or was killed", request.boot.name),
                 fmt::format("wait for it, or end it: stillpoint boot --remove {}", request.boot.name));
  // Before all disks are read.
  if (std::error_code unknown; std::filesystem::exists(request.boot.directory, unknown))
    throw UsageError(fmt::format("{} is there already", request.boot.directory.native()),
                     "name another directory with --directory");
  DrillRun run(repository, manifest, access, request, observer, stop);
  return run.run([&] { BootDrill(run, libvirt).recover(); });
}

}  // namespace stillpoint
