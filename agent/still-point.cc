// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/still-point.hh"

#include "agent/discovery.hh"
#include "agent/mount-points.hh"
#include "agent/report-file.hh"
#include "common/errors.hh"
#include "common/glib.hh"
#include "common/log.hh"
#include "common/test-pause.hh"
#include "config.hh"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <thread>
#include <utility>

namespace stillpoint {

namespace {

constexpr std::chrono::seconds prepare_limit{50};
constexpr std::chrono::seconds release_limit{5};
/// What the host may have waiting at once.
constexpr std::size_t most_waiting = 64;
/// What a foreign freeze, which prepares inside the hook's time, leaves for the report and the answer.
constexpr std::chrono::milliseconds answer_reserve{500};
/// How much later than its deadline an engine's call may end.
constexpr std::chrono::seconds engine_grace{3};
/// For what is dirty to reach the disk before the window.
constexpr std::chrono::seconds sync_limit{5};
/// For the disk to take the report, with every writer held.
constexpr std::chrono::seconds attest_limit{3};
/// For writers to write what a barrier would have kept out, when a test conceals that there is none.
constexpr std::chrono::milliseconds concealed_time{1500};

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

std::string first_failure(const std::vector<std::string>& failures) {
  const auto it = std::find_if(failures.begin(), failures.end(), [](const std::string& f) { return !f.empty(); });
  return it == failures.end() ? std::string() : *it;
}

void sync_everything() {
  const auto mounts = std::make_unique<MountPoints>();
  mounts->open();
  mounts->sync();
}

}  // namespace

std::string_view to_string(StillPoint::State state) {
  static constexpr std::array<std::string_view, 8> names{"idle",     "preparing", "prepared", "quiescing",
                                                         "quiesced", "releasing", "released", "finishing"};
  return names.at(static_cast<std::size_t>(state));
}

StillPoint::StillPoint(const AgentConfig& config)
    : config_(config),
      overdue_thaw_(
          {[this] { report_.watchdog_fired = true; }, [this] { release_if_quiesced(); }, [this] { close_window(); }}) {}

StillPoint::Calls StillPoint::for_each_engine(const std::function<void(Engine&)>& call) const {
  Calls calls;
  for (const std::shared_ptr<Engine>& engine : engines_)
    calls.push_back([engine, call] { call(*engine); });
  return calls;
}

/// Calls all engines at once. One that does not return in time is told to; when that does not help either, the agent
/// ends: the locks live in its sessions, and go with them.
void StillPoint::call_engines(std::chrono::milliseconds limit, const std::function<void(Engine&)>& call,
                              std::function<void(const std::vector<std::string>& failures)> done) {
  overdue_ = Source::after(limit + engine_grace, [this] {
    for (const std::shared_ptr<Engine>& engine : engines_)
      engine->cancel();
    overdue_ = Source::after(engine_grace, [this] {
      hold_log(false);
      log_error("still point {}: a database server does not answer while {}: ending, so that it lets go", report_.id,
                to_string(state_));
      std::_Exit(static_cast<int>(ExitCode::failure));
    });
  });
  run_blocking(for_each_engine(call), [this, done = std::move(done)](const std::vector<std::string>& failures) {
    overdue_.reset();
    done(failures);
  });
}

void StillPoint::enter(State state) {
  state_ = state;
  pause_for_test(to_string(state));
}

void StillPoint::settle(State state) {
  enter(state);
  wake();
}

void StillPoint::wake() {
  // In the order in which they came; each looks at the state anew.
  for (auto& call : std::exchange(waiting_, {}))
    post(std::move(call));
}

/// Why nothing new can begin; empty when it can.
std::string StillPoint::why_not_now() const {
  if (may_be_frozen_ || overdue_thaw_.thawing()) return "the file systems may still be frozen";
  if (attesting_) return "the disk has not taken the last report yet";
  return {};
}

void StillPoint::prepare(const std::string& id, bool for_dumps, std::chrono::milliseconds freeze_within,
                         std::optional<std::chrono::milliseconds> freeze_limit, Done done) {
  if (state_ != State::idle) return done(fmt::format("a still point is {} already", to_string(state_)));
  if (const std::string why = why_not_now(); !why.empty()) return done(why);
  report_ = Report{};
  report_.id = id;
  own_id_ = false;
  freeze_limit_ = freeze_limit;
  freeze_timer_ = Source::after(freeze_within, [this] {
    if (state_ != State::prepared) return;
    log_warning("still point {}: no freeze came in time", report_.id);
    finish([](const std::string&) {});
  });
  discover_and_prepare(for_dumps, Deadline(prepare_limit), std::move(done));
}

void StillPoint::discover_and_prepare(bool for_dumps, const Deadline& deadline, Done done) {
  try {
    // It must run before anything is frozen: a program on a frozen file system may not start.
    if (!watchdog_ || !watchdog_->alive()) watchdog_ = std::make_unique<Watchdog>(config_.control_socket.native());
  } catch (const Error& e) {
    return done(e.what());
  }
  enter(State::preparing);
  reported_ = false;
  abandoned_ = false;
  found_.clear();
  unusable_.clear();
  warnings_.clear();
  report_.agent_version = STILLPOINT_VERSION;
  report_.hostname = host_name();
  std::error_code unknown;
  report_.path = std::filesystem::weakly_canonical(config_.report_path, unknown);
  const auto found = std::make_shared<Discovered>();
  run_blocking({[this, found, id = report_.id, deadline] { *found = discover(config_, id, deadline); }},
               [this, found, for_dumps, deadline, done = std::move(done)](const std::vector<std::string>& failures) {
                 warnings_ = std::move(found->warnings);
                 unusable_ = std::move(found->unusable);
                 if (!failures[0].empty()) warnings_.push_back(failures[0]);
                 engines_.clear();
                 for (std::unique_ptr<Engine>& engine : found->engines)
                   engines_.emplace_back(std::move(engine));
                 prepare_engines(for_dumps, deadline, done);
               });
}

void StillPoint::prepare_engines(bool for_dumps, const Deadline& deadline, Done done) {
  run_blocking(for_each_engine([for_dumps, deadline](Engine& engine) { engine.prepare(for_dumps, deadline); }),
               [this, done = std::move(done)](const std::vector<std::string>& failures) {
                 engines_prepared(failures);
                 sync_disks([this, done](const std::string&) {
                   settle(State::prepared);
                   done({});
                 });
               });
}

/// What is dirty is written now, so that freezing finds little to write. Nobody waits for a slow disk.
void StillPoint::sync_disks(Done done) {
  // A foreign freeze has no time for it: its writers wait already for what it would win.
  if (own_id_) return done({});
  const auto once = std::make_shared<Done>(std::move(done));
  const auto go_on = [this, once] {
    if (!*once) return;
    overdue_.reset();
    std::exchange(*once, {})({});
  };
  overdue_ = Source::after(sync_limit, go_on);
  run_blocking({sync_everything}, [go_on](const std::vector<std::string>&) { go_on(); });
}

void StillPoint::engines_prepared(const std::vector<std::string>& failures) {
  report_.prepared_at = wall_now();
  // A server that cannot be used at all is dropped here, and named in the report: the barrier cannot hold it.
  std::vector<std::shared_ptr<Engine>> usable;
  std::set<std::string> clusters;
  for (std::size_t i = 0; i < engines_.size(); ++i) {
    std::string failure = failures[i];
    if (const std::string cluster = engines_[i]->cluster();
        failure.empty() && !cluster.empty() && !clusters.insert(cluster).second)
      failure = "another node of its cluster is held, and a cluster needs the others";
    if (failure.empty()) {
      usable.push_back(engines_[i]);
      for (DatabaseReport& database : engines_[i]->report())
        found_.push_back(std::move(database));
      continue;
    }
    DatabaseReport database;
    database.engine = engines_[i]->engine();
    database.instance = engines_[i]->instance();
    database.reason = std::move(failure);
    unusable_.push_back(std::move(database));
  }
  engines_ = std::move(usable);
}

std::vector<std::string> StillPoint::prepared_clusters() const {
  std::vector<std::string> clusters;
  for (const std::shared_ptr<Engine>& engine : engines_)
    if (std::string cluster = engine->cluster(); !cluster.empty()) clusters.push_back(std::move(cluster));
  return clusters;
}

Json StillPoint::prepared_databases() const {
  Json databases = Json::array();
  const auto add = [&](const DatabaseReport& d, bool ready) {
    Json entry{{"engine", d.engine}, {"instance", d.instance}, {"database", d.database}, {"ready", ready}};
    if (!ready) entry["reason"] = d.reason;
    databases.push_back(std::move(entry));
  };
  // Before the barrier nothing is exact yet: a reason is what tells a database that cannot be held.
  for (const DatabaseReport& database : found_)
    add(database, database.reason.empty());
  for (const DatabaseReport& database : unusable_)
    add(database, false);
  return databases;
}

void StillPoint::quiesce(std::chrono::milliseconds limit, std::vector<SiteHookReport> site_hooks, Done done) {
  if (const std::string why = why_not_now(); !why.empty()) return done(why);
  const Deadline deadline(std::min(limit, config_.hook_limit));
  const auto take = [this, deadline, site_hooks = std::move(site_hooks)](Done answer) {
    report_.site_hooks = site_hooks;
    std::chrono::milliseconds barrier = config_.barrier_limit;
    if (freeze_limit_) {
      std::chrono::milliseconds left = *freeze_limit_;
      for (const SiteHookReport& hook : site_hooks)
        left -= std::min(hook.took, left);
      barrier = std::min(barrier, left);
    }
    if (barrier.count() == 0) return answer("the site's hooks have used up the time that the freeze may take");
    take_barrier(deadline.at_most(barrier), std::move(answer));
  };
  if (state_ == State::prepared) return take(std::move(done));
  if (state_ != State::idle && state_ != State::released)
    return done(fmt::format("the agent is {} a still point", to_string(state_)));
  // Another program freezes. A still point whose dumps are being read keeps its database snapshots: they are not in the
  // way of a second barrier, but the sessions are the engines' only ones.
  if (state_ == State::released) return done("the dumps of a still point are being read: freeze when it is finished");
  report_ = Report{};
  report_.id = random_id();
  own_id_ = true;
  freeze_limit_.reset();
  const std::chrono::milliseconds reserved = config_.barrier_limit + answer_reserve;
  const Deadline prepared_by = deadline.at_most(std::max(deadline.left() - reserved, answer_reserve));
  discover_and_prepare(false, prepared_by, [this, take, deadline, done = std::move(done)](const std::string& failure) {
    for (const DatabaseReport& server : unusable_)
      log_warning("{} {} is not quiesced: {}", server.engine, server.instance, server.reason);
    if (failure.empty() && !deadline.passed() && !abandoned_) return take(done);
    finish([done, failure](const std::string&) { done(failure.empty() ? "preparing took too long" : failure); });
  });
}

void StillPoint::take_barrier(const Deadline& deadline, Done done) {
  enter(State::quiescing);
  raised_.emplace();
  abandoned_ = false;
  freeze_timer_.reset();
  report_.barrier_begun_at = wall_now();
  // All servers at once: the barrier lasts as long as its slowest part, not as long as the sum.
  call_engines(
      deadline.left(), [deadline](Engine& engine) { engine.quiesce(deadline); },
      [this, done = std::move(done)](const std::vector<std::string>& failures) {
        if (const std::string failure = first_failure(failures); !failure.empty()) return undo_barrier(failure, done);
        if (abandoned_) return undo_barrier("the hook is gone", done);
        attest(done);
      });
}

std::vector<DatabaseReport> StillPoint::reported_databases() const {
  std::vector<DatabaseReport> databases;
  for (const std::shared_ptr<Engine>& engine : engines_)
    for (DatabaseReport& database : engine->report())
      databases.push_back(std::move(database));
  databases.insert(databases.end(), unusable_.begin(), unusable_.end());
  if (!config_.hold_writers && !config_.conceal_open_barrier)
    for (DatabaseReport& database : databases) {
      database.exactness = Exactness::skewed;
      database.reason = "the barrier is switched off for a test";
    }
  return databases;
}

/// Writes down what is held, where the block snapshot will have it, and arms the watchdog: in a thread, for a disk
/// takes what time it takes. The barrier does not last as long as that.
void StillPoint::attest(Done done) {
  const auto attested = std::make_shared<Report>(report_);
  attested->databases = reported_databases();
  attested->barrier_at = wall_now();
  attested->quiesced = true;
  attesting_ = true;
  give_up_ = [this, done](const std::string& why) {
    overdue_.reset();
    undo_barrier(why, done);
  };
  overdue_ =
      Source::after(attest_limit, [this] { std::exchange(give_up_, {})("the report could not be written in time"); });
  run_blocking({[this, attested] {
                 if (config_.conceal_open_barrier) std::this_thread::sleep_for(concealed_time);
                 write_report(config_.report_path, *attested);
                 watchdog_->arm(config_.guest_deadline);
               }},
               [this, attested, done = std::move(done)](const std::vector<std::string>& failures) {
                 attesting_ = false;
                 if (!std::exchange(give_up_, {})) return static_cast<void>(watchdog_->disarm());
                 overdue_.reset();
                 if (!failures[0].empty()) return undo_barrier(failures[0], done);
                 barrier_stands(*attested, done);
               });
}

void StillPoint::barrier_stands(const Report& report, const Done& done) {
  report_ = report;
  reported_ = true;
  may_be_frozen_ = true;
  hold_log(true);
  overdue_thaw_.start(config_.guest_deadline);
  settle(State::quiesced);
  done({});
}

/// A server may have ended the barrier by itself: what was attested inside it may no longer be true after it.
void StillPoint::reattest() {
  std::vector<DatabaseReport> databases;
  for (const std::shared_ptr<Engine>& engine : engines_)
    for (DatabaseReport& database : engine->report())
      databases.push_back(std::move(database));
  for (std::size_t i = 0; i < databases.size() && i < report_.databases.size(); ++i) {
    DatabaseReport& attested = report_.databases[i];
    const bool same = attested.dump == databases[i].dump && attested.database == databases[i].database;
    if (same) attested.position = databases[i].position;
    if (same && attested.exactness == Exactness::exact && databases[i].exactness != Exactness::exact) {
      attested.exactness = databases[i].exactness;
      attested.reason = databases[i].reason;
    }
  }
}

void StillPoint::undo_barrier(const std::string& failure, Done done) {
  enter(State::releasing);
  if (!attesting_) static_cast<void>(watchdog_->disarm());
  report_.quiesced = false;
  report_.failure = failure;
  reported_ = true;
  const Deadline deadline(release_limit);
  call_engines(
      release_limit, [deadline](Engine& engine) { engine.release(deadline); },
      [this, failure, done = std::move(done)](const std::vector<std::string>&) {
        raised_.reset();
        settle(State::released);
        if (!own_id_) return done(failure);
        finish([done, failure](const std::string&) { done(failure); });
      });
}

void StillPoint::abandon_barrier() {
  abandoned_ = true;
  if (give_up_) return std::exchange(give_up_, {})("the hook is gone");
  if (state_ == State::quiescing)
    for (const std::shared_ptr<Engine>& engine : engines_)
      engine->cancel();
  // It stood before anybody noticed that the hook is dead: qemu-ga will not freeze, nor call for a thaw.
  if (state_ == State::quiesced) thawed([](const std::string&) {});
}

/// Nothing is frozen any more.
void StillPoint::close_window() {
  if (!may_be_frozen_) return;
  may_be_frozen_ = false;
  overdue_thaw_.stop();
  const bool late = report_.watchdog_fired;
  if (watchdog_->disarm()) report_.watchdog_fired = true;
  hold_log(false);
  if (late) log_warning("no thaw came before the deadline: the guest is thawed");
}

void StillPoint::release_if_quiesced() {
  if (state_ == State::quiesced) release([](const std::string&) {});
}

void StillPoint::thawed(Done done) {
  switch (state_) {
    case State::quiescing:
      abandon_barrier();
      [[fallthrough]];
    case State::releasing:
      // Also when the host let go in the window: that releases the barrier, but only a thaw ends the window.
      close_window();
      return wait([this, done = std::move(done)] { thawed(done); });
    default:
      break;
  }
  close_window();
  if (state_ == State::quiesced) return release(std::move(done));
  done({});
}

void StillPoint::release(Done done) {
  enter(State::releasing);
  const Deadline deadline(release_limit);
  // In reverse order of the barrier; together, as they were taken.
  call_engines(
      release_limit, [deadline](Engine& engine) { engine.release(deadline); },
      [this, done = std::move(done)](const std::vector<std::string>&) {
        report_.released_at = wall_now();
        raised_.reset();
        reattest();
        settle(State::released);
        log_info("still point {}: barrier held for {} ms", report_.id,
                 std::chrono::duration_cast<std::chrono::milliseconds>(*report_.released_at - report_.barrier_begun_at)
                     .count());
        done({});
        if (own_id_) return finish([](const std::string&) {});
        if (state_ != State::released) return;  // whoever waited has finished it
        start_in_turn(for_each_engine([](Engine& engine) { engine.begin_dumps(); }),
                      [](const std::vector<std::string>&) {});
      });
}

/// For dumps: an engine takes one call at a time.
void StillPoint::start_in_turn(Calls calls, std::function<void(const std::vector<std::string>& failures)> done) {
  starting_.push_back([this, calls = std::move(calls), done = std::move(done)] {
    run_blocking(calls, [this, done](const std::vector<std::string>& failures) {
      starting_.erase(starting_.begin());
      done(failures);
      if (starting_.empty()) return wake();
      starting_.front()();
    });
  });
  if (starting_.size() == 1) starting_.front()();
}

std::optional<Report> StillPoint::report() const {
  return reported_ ? std::optional(report_) : std::nullopt;
}

std::shared_ptr<Engine> StillPoint::engine_of(const std::string& name, std::string& failure) const {
  if (state_ != State::released || !report_.quiesced) {
    failure = "no database snapshots are held";
    return nullptr;
  }
  if (starting_.size() >= most_waiting) {
    failure = "too many dumps are being started";
    return nullptr;
  }
  // By the report, for an engine may be starting another dump, and takes one call at a time.
  const auto database = std::find_if(report_.databases.begin(), report_.databases.end(),
                                     [&](const DatabaseReport& d) { return !name.empty() && d.dump == name; });
  if (database != report_.databases.end())
    for (const std::shared_ptr<Engine>& engine : engines_)
      if (engine->reports(*database)) return engine;
  failure = fmt::format("there is no dump '{}'", name);
  return nullptr;
}

void StillPoint::start_dump(const std::string& name,
                            std::function<void(std::shared_ptr<RunningDump> dump, const std::string& failure)> done) {
  std::string unfit;
  const std::shared_ptr<Engine> engine = engine_of(name, unfit);
  if (!engine) return done(nullptr, unfit);
  const auto dump = std::make_shared<std::unique_ptr<RunningDump>>();
  start_in_turn({[engine, name, dump] { *dump = std::make_unique<RunningDump>(engine->start_dump(name)); }},
                [dump, done = std::move(done)](const std::vector<std::string>& failures) {
                  done(std::shared_ptr<RunningDump>(std::move(*dump)), failures[0]);
                });
}

void StillPoint::start_check(
    const std::string& name,
    std::function<void(std::shared_ptr<RunningDump> check, const std::string& tool, const std::string& failure)> done) {
  std::string unfit;
  const std::shared_ptr<Engine> engine = engine_of(name, unfit);
  if (!engine) return done(nullptr, {}, unfit);
  const auto check = std::make_shared<std::optional<RunningCheck>>();
  start_in_turn({[engine, name, check] { *check = engine->start_check(name); }},
                [check, done = std::move(done)](const std::vector<std::string>& failures) {
                  if (!*check) return done(nullptr, {}, failures[0]);
                  done(std::make_shared<RunningDump>(std::move((*check)->run)), (*check)->tool, failures[0]);
                });
}

void StillPoint::finish(Done done) {
  switch (state_) {
    case State::idle:
      return done({});
    case State::quiesced:
      // A thaw or the deadline ends the window: engines start programs, and that is nothing for a frozen guest.
      break;
    case State::quiescing:
      abandon_barrier();
      break;
    case State::preparing:
      for (const std::shared_ptr<Engine>& engine : engines_)
        engine->cancel();
      break;
    case State::prepared:
    case State::released:
      if (starting_.empty()) break;
      for (const std::shared_ptr<Engine>& engine : engines_)
        engine->cancel();
      break;
    default:
      break;
  }
  if ((state_ != State::prepared && state_ != State::released) || !starting_.empty()) {
    if (waiting_.size() >= most_waiting) return done("too many requests are waiting");
    return wait([this, done = std::move(done)] { finish(done); });
  }
  enter(State::finishing);
  freeze_timer_.reset();
  const auto calls = for_each_engine([](Engine& engine) { engine.finish(); });
  run_blocking(calls, [this, done = std::move(done)](const std::vector<std::string>&) {
    engines_.clear();
    settle(State::idle);
    done({});
  });
}

}  // namespace stillpoint
