// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/plugin-engine.hh"

#include "agent/dump-tool.hh"
#include "agent/plugin-report.hh"
#include "agent/watchdog.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "common/protocol.hh"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <set>
#include <system_error>
#include <utility>

namespace stillpoint {

namespace fs = std::filesystem;

namespace {

/// How a probe says that there is nothing of its kind here.
constexpr int not_here = 77;
constexpr std::size_t most_plugins = 32;
/// Of what a plug-in complains about, for the report.
constexpr std::size_t max_complaint = 500;
/// Of one that hangs. Programs may have to come from a slow disk.
constexpr std::chrono::milliseconds probe_limit{10000};
/// Also when others have used up the time: one that has nothing here must not be taken for one that fails.
constexpr std::chrono::milliseconds least_probe{1000};
/// For all of them.
constexpr std::chrono::milliseconds abort_limit{5000};
/// Nobody waits for that; the host goes earlier.
constexpr std::chrono::hours longest_dump{24};
/// For all of them, when a freeze has failed and the hook waits.
constexpr std::chrono::milliseconds undo_limit{2000};
/// From the barrier to the watchdog's arming, and from its thaw to the release.
constexpr std::chrono::milliseconds around_the_window{5000};

/// What one call has said, and what it has left running.
struct Answer {
  int status;
  std::string output;
  std::string complaint;
  RunningProgram group;
};

/// Runs a verb. Throws QuiesceError when it cannot be run, says too much, or does not end in time: then its group is
/// gone.
Answer run(const Program& program, const Deadline& deadline, int lifeline, int cancelled) {
  Pipe output = open_pipe("a plug-in");
  Pipe errors = open_pipe("a plug-in's errors");
  RunningProgram running(program, {output.write_end.get(), errors.write_end.get(), lifeline});
  output.write_end.reset();
  errors.write_end.reset();
  std::array<Intake, 2> intakes{Intake(std::move(output.read_end), plugin::max_document, Intake::Keep::all),
                                Intake(std::move(errors.read_end), max_complaint, Intake::Keep::end)};
  if (!running.wait(deadline, intakes, cancelled)) throw QuiesceError("did not end in time");
  if (intakes[0].too_long()) throw QuiesceError(fmt::format("says more than {} bytes", plugin::max_document));
  Answer answer{running.status(), intakes[0].text(), intakes[1].text(), std::move(running)};
  while (!answer.complaint.empty() && answer.complaint.back() == '\n')
    answer.complaint.pop_back();
  std::replace(answer.complaint.begin(), answer.complaint.end(), '\n', ' ');
  return answer;
}

std::string failure_of(const Answer& answer) {
  std::string failure = describe_status(answer.status);
  if (failure.empty() || answer.complaint.empty()) return failure;
  return fmt::format("{}: {}", failure, answer.complaint);
}

std::vector<std::string> environment_of(const AgentConfig& config, const fs::path& path, const std::string& id,
                                        const Deadline& deadline) {
  const fs::path own_config = config.engines_directory / (path.filename().native() + ".conf");
  std::vector<std::string> environment{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                       "LC_ALL=C.UTF-8",
                                       "HOME=/nonexistent",
                                       "STILLPOINT_ID=" + id,
                                       "STILLPOINT_CONFIG=" + own_config.native(),
                                       fmt::format("STILLPOINT_DEADLINE_MS={}", deadline.left().count())};
  if (!config.hold_writers) environment.emplace_back("STILLPOINT_TEST_NO_BARRIER=1");
  return environment;
}

std::string reason_of(const std::exception& error) {
  return std::string(error.what()).substr(0, plugin::max_reason);
}

std::string name_of(const fs::path& path) {
  return path.has_filename() ? path.filename() : path.parent_path().filename();
}

DatabaseReport unusable(std::string engine, const fs::path& path, std::string reason) {
  DatabaseReport report;
  report.engine = std::move(engine);
  report.instance = protocol::dump_name_part(name_of(path));
  report.reason = std::move(reason);
  return report;
}

/// An equal part of what is left, for the first of so many that still have to come.
Deadline share(const Deadline& deadline, std::size_t of) {
  return deadline.at_most(deadline.left() / static_cast<std::int64_t>(std::max<std::size_t>(of, 1)));
}

/// The engine's name; empty when there is nothing of its kind here. Throws Error.
std::string probe(const AgentConfig& config, const fs::path& path, const std::string& id, const Deadline& deadline) {
  Answer answer = run({path, {"probe"}, environment_of(config, path, id, deadline), {}}, deadline, -1, -1);
  answer.group.end_group();
  if (WIFEXITED(answer.status) && WEXITSTATUS(answer.status) == not_here) return {};
  if (const std::string failure = failure_of(answer); !failure.empty()) throw QuiesceError(failure);
  return plugin::parse_probe(answer.output);
}

/// The site's and ours. One of the site with the name of one of ours takes its place, and a link to /dev/null takes it
/// away; anything else with that name was meant to, and is a fault.
std::vector<FoundProgram> find_plugins(const fs::path& ours, const fs::path& sites) {
  std::vector<FoundProgram> programs = find_programs({ours, sites});
  const auto is_found = [&](const fs::path& path) {
    return std::any_of(programs.begin(), programs.end(), [&](const FoundProgram& p) { return p.path == path; });
  };
  std::vector<FoundProgram> plugins;
  for (FoundProgram program : programs) {
    std::error_code ignored;
    const fs::path other = sites / program.path.filename();
    if (program.path.parent_path() == ours && program.path.has_filename() &&
        fs::exists(fs::symlink_status(other, ignored))) {
      if (is_found(other) || fs::canonical(other, ignored) == "/dev/null") continue;
      program.fault = fmt::format("{} is neither a program nor a link to /dev/null", other.native());
    }
    plugins.push_back(std::move(program));
  }
  return plugins;
}

}  // namespace

PluginEngine::PluginEngine(const AgentConfig& config, std::string id, std::vector<Plugin> plugins)
    : config_(config), id_(std::move(id)), cancelled_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!cancelled_) throw_errno<QuiesceError>("eventfd");
  for (Plugin& plugin : plugins) {
    Entry entry;
    entry.directory = config.runtime_directory / "engines" / plugin.path.filename();
    entry.plugin = std::move(plugin);
    entries_.push_back(std::move(entry));
  }
}

PluginEngine::~PluginEngine() {
  finish();
}

bool PluginEngine::reports(const DatabaseReport& database) const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [&](const Entry& entry) { return entry.plugin.engine == database.engine; });
}

Program PluginEngine::program(const Entry& entry, std::string_view verb, std::vector<std::string> environment) const {
  environment.push_back("STILLPOINT_DIRECTORY=" + entry.directory.native());
  environment.push_back(fmt::format("STILLPOINT_DUMPS={}", for_dumps_ ? 1 : 0));
  return {entry.plugin.path, {std::string(verb)}, std::move(environment), {}};
}

/// Returns the document. Throws QuiesceError.
std::string PluginEngine::call(Entry& entry, std::string_view verb, std::vector<std::string> environment,
                               const Deadline& deadline, int cancelled) const {
  for (std::string& variable : environment_of(config_, entry.plugin.path, id_, deadline))
    environment.push_back(std::move(variable));
  Answer answer = run(program(entry, verb, std::move(environment)), deadline, lifeline_.read_end.get(), cancelled);
  if (const std::string failure = failure_of(answer); !failure.empty()) throw QuiesceError(failure);
  entry.groups.push_back(std::move(answer.group));
  return std::move(answer.output);
}

void PluginEngine::prepare_one(Entry& entry, const Deadline& deadline) const {
  std::error_code error;
  fs::remove_all(entry.directory, error);
  fs::create_directories(entry.directory.parent_path(), error);
  if (::mkdir(entry.directory.c_str(), 0700) != 0) throw_errno<QuiesceError>("mkdir " + entry.directory.native());
  entry.prepared = true;
  entry.databases =
      plugin::parse_databases(call(entry, "prepare", {}, deadline, cancelled_.get()), entry.plugin.engine, false);
}

void PluginEngine::prepare(bool for_dumps, const Deadline& deadline) {
  finish();
  for_dumps_ = for_dumps;
  lifeline_ = open_pipe("plug-ins");
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    Entry& entry = entries_[i];
    try {
      entry.fault.clear();
      prepare_one(entry, share(deadline, entries_.size() - i));
    } catch (const Error& e) {
      entry.fault = fmt::format("prepare: {}", reason_of(e));
      log_warning("plug-in {}: {}", name_of(entry.plugin.path), entry.fault);
    }
  }
}

void PluginEngine::freeze_one(Entry& entry, const Deadline& deadline) const {
  // The agent and its watchdog have let go by then, and whatever is held beyond is held for nobody.
  const std::chrono::milliseconds hold = deadline.left() + config_.guest_deadline + around_the_window;
  const auto begun = SteadyClock::now();
  entry.frozen = true;
  std::vector<DatabaseReport> databases = plugin::parse_databases(
      call(entry, "freeze", {fmt::format("STILLPOINT_HOLD_MS={}", hold.count())}, deadline, cancelled_.get()),
      entry.plugin.engine, true);
  if (databases.empty()) throw QuiesceError("names no database");
  for (const DatabaseReport& prepared : entry.databases) {
    const auto same = [&](const DatabaseReport& d) {
      return d.instance == prepared.instance && d.database == prepared.database;
    };
    if (std::any_of(databases.begin(), databases.end(), same)) continue;
    databases.push_back(prepared);
    plugin::fail(databases.back(), "its freeze says nothing of it");
  }
  for (DatabaseReport& database : databases) {
    database.acquired_in = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun);
    database.attempts = 1;
    if (!for_dumps_) database.dump.clear();
  }
  entry.databases = std::move(databases);
}

void PluginEngine::quiesce(const Deadline& deadline) {
  for (Entry& entry : entries_) {
    if (!entry.fault.empty()) continue;
    try {
      freeze_one(entry, deadline);
    } catch (const Error& e) {
      release(Deadline(undo_limit));
      throw QuiesceError(fmt::format("plug-in {}: freeze: {}", name_of(entry.plugin.path), reason_of(e)));
    }
  }
  refuse_same_dumps();
}

void PluginEngine::refuse_same_dumps() {
  std::set<std::string> names;
  for (Entry& entry : entries_)
    for (DatabaseReport& database : entry.databases)
      if (!database.dump.empty() && !names.insert(database.dump).second)
        plugin::fail(database, fmt::format("another plug-in has a dump {} too", database.dump));
}

void PluginEngine::thaw_one(Entry& entry, const Deadline& deadline) const {
  entry.frozen = false;
  try {
    // Never cancelled: nothing is as important as the way back.
    plugin::lower(entry.databases,
                  plugin::parse_databases(call(entry, "thaw", {}, deadline, -1), entry.plugin.engine, true));
  } catch (const std::exception& e) {
    // What a program holds goes with it, and nobody can say any more how long it was held.
    entry.groups.clear();
    for (DatabaseReport& database : entry.databases) {
      if (database.exactness != Exactness::exact) continue;
      database.exactness = Exactness::skewed;
      database.reason = fmt::format("its thaw failed: {}", reason_of(e));
    }
    log_warning("plug-in {}: thaw: {}", name_of(entry.plugin.path), reason_of(e));
  }
}

void PluginEngine::release(const Deadline& deadline) noexcept {
  for (std::size_t left = entries_.size(); left > 0; --left) {
    Entry& entry = entries_[left - 1];
    if (entry.frozen) thaw_one(entry, share(deadline, left));
  }
}

std::vector<DatabaseReport> PluginEngine::report() const {
  std::vector<DatabaseReport> databases;
  for (const Entry& entry : entries_) {
    databases.insert(databases.end(), entry.databases.begin(), entry.databases.end());
    if (entry.fault.empty()) continue;
    databases.push_back(unusable(entry.plugin.engine, entry.plugin.path, entry.fault));
  }
  return databases;
}

RunningDump PluginEngine::start_dump(std::string_view name) {
  for (const Entry& entry : entries_)
    for (const DatabaseReport& database : entry.databases) {
      if (name.empty() || database.dump != name) continue;
      std::vector<std::string> environment = environment_of(config_, entry.plugin.path, id_, Deadline(longest_dump));
      environment.push_back("STILLPOINT_INSTANCE=" + database.instance);
      environment.push_back("STILLPOINT_DATABASE=" + database.database);
      return run_dump_tool(program(entry, "dump", std::move(environment)), lifeline_.read_end.get());
    }
  throw NotFound(fmt::format("there is no dump {}", name));
}

void PluginEngine::finish() noexcept {
  release(Deadline(undo_limit));
  const Deadline deadline(abort_limit);
  std::size_t left = entries_.size();
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry, --left) {
    if (!std::exchange(entry->prepared, false)) continue;
    try {
      static_cast<void>(call(*entry, "abort", {}, share(deadline, left), -1));
    } catch (const Error& e) {
      log_warning("plug-in {}: abort: {}", name_of(entry->plugin.path), reason_of(e));
    }
    entry->groups.clear();
    std::error_code ignored;
    fs::remove_all(entry->directory, ignored);
  }
  lifeline_ = {};
}

void PluginEngine::cancel() noexcept {
  static_cast<void>(::eventfd_write(cancelled_.get(), 1));
}

void discover_plugins(const AgentConfig& config, const std::string& id, const Deadline& deadline, Discovered& found) {
  const std::vector<FoundProgram> programs = find_plugins(libexec_program("engines"), config.engines_directory);
  std::vector<Plugin> plugins;
  for (std::size_t i = 0; i < programs.size(); ++i) {
    const FoundProgram& program = programs[i];
    try {
      if (!program.fault.empty()) throw QuiesceError(program.fault);
      if (i >= most_plugins) throw QuiesceError(fmt::format("there are more than {} plug-ins", most_plugins));
      const Deadline limit(std::clamp(share(deadline, programs.size() - i).left(), least_probe, probe_limit));
      std::string engine = probe(config, program.path, id, limit);
      if (!engine.empty()) plugins.push_back({program.path, std::move(engine)});
    } catch (const Error& e) {
      found.warnings.push_back(fmt::format("plug-in {}: {}", program.path.native(), reason_of(e)));
      found.unusable.push_back(unusable("plug-in", program.path, reason_of(e)));
    }
  }
  if (!plugins.empty()) found.engines.push_back(std::make_unique<PluginEngine>(config, id, std::move(plugins)));
}

}  // namespace stillpoint
