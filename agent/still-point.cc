// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/still-point.hh"

#include "agent/discovery.hh"
#include "agent/report-file.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "config.hh"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

namespace stillpoint {

namespace {

constexpr std::chrono::seconds prepare_limit{50};
constexpr std::chrono::seconds release_limit{5};
/// A foreign freeze must be prepared inside the hook's time.
constexpr std::chrono::seconds unprepared_limit{3};

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

std::string first_failure(const std::vector<std::string>& failures) {
  const auto it = std::find_if(failures.begin(), failures.end(), [](const std::string& f) { return !f.empty(); });
  return it == failures.end() ? std::string() : *it;
}

}  // namespace

std::string_view to_string(StillPoint::State state) {
  static constexpr std::array<std::string_view, 8> names{"idle",     "preparing", "prepared", "quiescing",
                                                         "quiesced", "releasing", "released", "finishing"};
  return names.at(static_cast<std::size_t>(state));
}

StillPoint::Calls StillPoint::for_each_engine(const std::function<void(Engine&)>& call) const {
  Calls calls;
  for (const std::shared_ptr<Engine>& engine : engines_)
    calls.push_back([engine, call] { call(*engine); });
  return calls;
}

void StillPoint::settle(State state) {
  state_ = state;
  wake();
}

void StillPoint::wake() {
  // In the order in which they came; each looks at the state anew.
  for (auto& call : std::exchange(waiting_, {}))
    post(std::move(call));
}

void StillPoint::prepare(const std::string& id, bool for_dumps, std::chrono::milliseconds freeze_within, Done done) {
  if (state_ != State::idle) return done(fmt::format("a still point is {} already", to_string(state_)));
  report_ = Report{};
  report_.id = id;
  own_id_ = false;
  freeze_timer_ = Source::after(freeze_within, [this] {
    if (state_ != State::prepared) return;
    log_warning("still point {}: no freeze came in time", report_.id);
    finish([](const std::string&) {});
  });
  discover_and_prepare(for_dumps, std::move(done));
}

void StillPoint::discover_and_prepare(bool for_dumps, Done done) {
  try {
    // It must run before anything is frozen: a program on a frozen file system may not start.
    if (!watchdog_) watchdog_ = std::make_unique<Watchdog>();
  } catch (const Error& e) {
    return done(e.what());
  }
  state_ = State::preparing;
  reported_ = false;
  abandoned_ = false;
  found_.clear();
  unusable_.clear();
  warnings_.clear();
  report_.agent_version = STILLPOINT_VERSION;
  report_.hostname = host_name();
  const auto found = std::make_shared<Discovered>();
  run_blocking({[this, found] { *found = discover(config_, Deadline(prepare_limit)); }},
               [this, found, for_dumps, done = std::move(done)](const std::vector<std::string>& failures) {
                 warnings_ = std::move(found->warnings);
                 if (!failures[0].empty()) warnings_.push_back(failures[0]);
                 engines_.clear();
                 for (std::unique_ptr<Engine>& engine : found->engines)
                   engines_.emplace_back(std::move(engine));
                 prepare_engines(for_dumps, done);
               });
}

void StillPoint::prepare_engines(bool for_dumps, Done done) {
  const Deadline deadline(prepare_limit);
  run_blocking(for_each_engine([for_dumps, deadline](Engine& engine) { engine.prepare(for_dumps, deadline); }),
               [this, done = std::move(done)](const std::vector<std::string>& failures) {
                 engines_prepared(failures);
                 settle(State::prepared);
                 done({});
               });
}

void StillPoint::engines_prepared(const std::vector<std::string>& failures) {
  report_.prepared_at = wall_now();
  // A server that cannot be used at all is dropped here, and named in the report: the barrier cannot hold it.
  std::vector<std::shared_ptr<Engine>> usable;
  for (std::size_t i = 0; i < engines_.size(); ++i) {
    if (failures[i].empty()) {
      usable.push_back(engines_[i]);
      for (DatabaseReport& database : engines_[i]->report())
        found_.push_back(std::move(database));
      continue;
    }
    DatabaseReport database;
    database.engine = engines_[i]->engine();
    database.instance = engines_[i]->instance();
    database.reason = failures[i];
    unusable_.push_back(std::move(database));
  }
  engines_ = std::move(usable);
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
  const Deadline deadline(std::min(limit, config_.hook_limit));
  const auto take = [this, deadline, site_hooks = std::move(site_hooks)](Done answer) {
    report_.site_hooks = site_hooks;
    take_barrier(deadline.at_most(config_.barrier_limit), std::move(answer));
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
  discover_and_prepare(false, [this, take, deadline, done = std::move(done)](const std::string& failure) {
    if (failure.empty() && !deadline.passed() && !abandoned_) return take(done);
    finish([done, failure](const std::string&) { done(failure.empty() ? "preparing took too long" : failure); });
  });
}

void StillPoint::take_barrier(const Deadline& deadline, Done done) {
  state_ = State::quiescing;
  abandoned_ = false;
  freeze_timer_.reset();
  report_.barrier_begun_at = wall_now();
  // All servers at once: the barrier lasts as long as its slowest part, not as long as the sum.
  run_blocking(for_each_engine([deadline](Engine& engine) { engine.quiesce(deadline); }),
               [this, done = std::move(done)](const std::vector<std::string>& failures) {
                 const auto failed =
                     std::find_if(failures.begin(), failures.end(), [](const std::string& f) { return !f.empty(); });
                 if (failed != failures.end()) return undo_barrier(*failed, done);
                 if (abandoned_) return undo_barrier("the hook is gone", done);
                 // In a thread of its own: fsync takes what it takes.
                 run_blocking({[this] { attest(); }}, [this, done](const std::vector<std::string>& attested) {
                   if (!attested[0].empty()) return undo_barrier(attested[0], done);
                   if (abandoned_) return undo_barrier("the hook is gone", done);
                   deadline_timer_ = Source::after(config_.guest_deadline, [this] { deadline_passed(); });
                   settle(State::quiesced);
                   done({});
                 });
               });
}

/// Writes down what is held, where the block snapshot will have it, and arms the watchdog. The state is quiescing:
/// nobody else touches the report.
void StillPoint::attest() {
  report_.databases.clear();
  for (const std::shared_ptr<Engine>& engine : engines_)
    for (DatabaseReport& database : engine->report())
      report_.databases.push_back(std::move(database));
  report_.databases.insert(report_.databases.end(), unusable_.begin(), unusable_.end());
  if (!config_.hold_writers && !config_.conceal_open_barrier)
    for (DatabaseReport& database : report_.databases) {
      database.exactness = Exactness::skewed;
      database.reason = "the barrier is switched off for a test";
    }
  report_.barrier_at = wall_now();
  report_.quiesced = true;
  write_report(config_.report_path, report_);
  watchdog_->arm(config_.guest_deadline);
  reported_ = true;
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
    if (same && attested.exactness == Exactness::exact && databases[i].exactness != Exactness::exact) {
      attested.exactness = databases[i].exactness;
      attested.reason = databases[i].reason;
    }
  }
}

void StillPoint::undo_barrier(const std::string& failure, Done done) {
  static_cast<void>(watchdog_->disarm());
  report_.quiesced = false;
  report_.failure = failure;
  reported_ = true;
  const Deadline deadline(release_limit);
  run_blocking(for_each_engine([deadline](Engine& engine) { engine.release(deadline); }),
               [this, failure, done = std::move(done)](const std::vector<std::string>&) {
                 settle(State::released);
                 if (!own_id_) return done(failure);
                 finish([done, failure](const std::string&) { done(failure); });
               });
}

void StillPoint::abandon_barrier() {
  abandoned_ = true;
  if (state_ == State::quiescing)
    for (const std::shared_ptr<Engine>& engine : engines_)
      engine->cancel();
  // It stood before anybody noticed that the hook is dead: qemu-ga will not freeze, nor call for a thaw.
  if (state_ == State::quiesced) release([](const std::string&) {});
}

void StillPoint::deadline_passed() {
  if (state_ != State::quiesced) return;
  report_.watchdog_fired = true;
  release([](const std::string&) {});
}

void StillPoint::release(Done done) {
  switch (state_) {
    case State::quiesced:
      break;
    case State::quiescing:
      abandon_barrier();
      [[fallthrough]];
    case State::releasing:
      return wait([this, done = std::move(done)] { release(done); });
    default:
      return done({});
  }
  state_ = State::releasing;
  deadline_timer_.reset();
  if (watchdog_->disarm()) report_.watchdog_fired = true;
  const Deadline deadline(release_limit);
  // In reverse order of the barrier; together, as they were taken.
  run_blocking(for_each_engine([deadline](Engine& engine) { engine.release(deadline); }),
               [this, done = std::move(done)](const std::vector<std::string>&) {
                 report_.released_at = wall_now();
                 reattest();
                 settle(State::released);
                 if (report_.watchdog_fired)
                   log_warning("still point {}: no thaw came before the deadline, the guest was thawed", report_.id);
                 else
                   log_info("still point {}: barrier held for {} ms", report_.id,
                            std::chrono::duration_cast<std::chrono::milliseconds>(*report_.released_at -
                                                                                  report_.barrier_begun_at)
                                .count());
                 if (own_id_) finish([](const std::string&) {});
                 done({});
               });
}

std::optional<Report> StillPoint::report() const {
  return reported_ ? std::optional(report_) : std::nullopt;
}

void StillPoint::start_dump(const std::string& name,
                            std::function<void(std::shared_ptr<RunningDump> dump, const std::string& failure)> done) {
  if (state_ != State::released || !report_.quiesced) return done(nullptr, "no database snapshots are held");
  for (const std::shared_ptr<Engine>& engine : engines_) {
    const std::vector<DatabaseReport> databases = engine->report();
    if (std::none_of(databases.begin(), databases.end(), [&](const DatabaseReport& d) { return d.dump == name; }))
      continue;
    const auto dump = std::make_shared<std::unique_ptr<RunningDump>>();
    starting_.push_back([this, engine, name, dump, done = std::move(done)] {
      run_blocking({[engine, name, dump] { *dump = std::make_unique<RunningDump>(engine->start_dump(name)); }},
                   [this, dump, done](const std::vector<std::string>& failures) {
                     starting_.erase(starting_.begin());
                     done(std::shared_ptr<RunningDump>(std::move(*dump)), failures[0]);
                     if (starting_.empty()) return wake();
                     starting_.front()();
                   });
    });
    // An engine takes one call at a time.
    if (starting_.size() == 1) starting_.front()();
    return;
  }
  done(nullptr, fmt::format("there is no dump '{}'", name));
}

void StillPoint::finish(Done done) {
  switch (state_) {
    case State::idle:
      return done({});
    case State::quiesced:
      return release([this, done = std::move(done)](const std::string&) { finish(done); });
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
  if ((state_ != State::prepared && state_ != State::released) || !starting_.empty())
    return wait([this, done = std::move(done)] { finish(done); });
  state_ = State::finishing;
  freeze_timer_.reset();
  const auto calls = for_each_engine([](Engine& engine) { engine.finish(); });
  run_blocking(calls, [this, done = std::move(done)](const std::vector<std::string>&) {
    engines_.clear();
    watchdog_.reset();
    settle(State::idle);
    done({});
  });
}

}  // namespace stillpoint
