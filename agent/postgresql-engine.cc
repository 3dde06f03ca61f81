// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql-engine.hh"

#include "agent/dump-name.hh"
#include "agent/exact-policy.hh"
#include "agent/postgresql-dumps.hh"
#include "agent/postgresql-queries.hh"
#include "common/errors.hh"
#include "common/protocol.hh"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <utility>

namespace stillpoint::postgresql {

namespace {

using std::chrono::milliseconds;

/// What a hung agent's barrier may hold the writers for, after which the server ends it.
constexpr milliseconds locker_idle{30000};
/// The last dump has begun by then, or never will. (Nothing but ACCESS SHARE locks and dead rows wait for the holder.)
constexpr milliseconds holder_idle{std::chrono::hours(12)};

/// Looks at pg_locks while nobody is held up: how many, and how far apart.
constexpr int looks = 20;
constexpr milliseconds look_interval{5};

/// For doing once, before anybody waits, what the barrier will do.
constexpr milliseconds rehearsal_limit{10000};

/// What a busy server may need to answer that a statement was interrupted; without its answer the session is lost.
constexpr milliseconds interrupt_reserve{1000};

/// For the checkpoint inside the barrier, of which the one in prepare() has left little.
constexpr milliseconds checkpoint_limit{800};

/// How long after the guest's deadline a standby's replay goes on by itself.
constexpr std::chrono::seconds after_the_deadline{5};

/// So many dumps begin right after the barrier, to have their tables locked before anybody wants them exclusively.
constexpr std::size_t max_early_dumps = 8;

void sleep_or_wake(const Cancellation& cancellation, milliseconds time) {
  pollfd fd{cancellation.fd(), POLLIN, 0};
  ::poll(&fd, 1, static_cast<int>(time.count()));
}

LearnedOrders& learned_orders() {
  static LearnedOrders orders;
  return orders;
}

}  // namespace

ClusterEngine::ClusterEngine(const AgentConfig& config, Server server, std::string instance)
    : config_(config), server_(std::move(server)), instance_(std::move(instance)) {}

DatabaseReport ClusterEngine::blank_report(const std::string& database) const {
  DatabaseReport report;
  report.engine = engine();
  report.instance = instance_;
  report.database = database;
  report.server_version = version_text_;
  report.data_directory = data_directory_;
  report.exactness = Exactness::skewed;  // until the barrier stands
  return report;
}

void ClusterEngine::prepare(bool for_dumps, const Deadline& deadline) {
  for_dumps_ = for_dumps;
  session_ = std::make_unique<Session>(server_, server_.database, cancellation_, deadline);
  read_cluster_facts(deadline);

  std::optional<RunningDump> globals;
  if (for_dumps) {
    globals_report_ = blank_report({});
    globals_report_.mode = "catalogue-fingerprint";
    globals_report_.dump = fmt::format("{}/{}/{}", engine(), instance_, globals_part);
    try {
      globals_fingerprint_ = session_->ask_one(globals_fingerprint(version_), deadline).text(0, 0);
      globals = dump_globals(server_, version_);
    } catch (const Error& error) {
      globals_report_.exactness = Exactness::failed;
      globals_report_.reason = error.what();
      globals_report_.dump.clear();
    }
  }

  // The other half is for the applications, and for the dump programs.
  std::int64_t connections = session_->ask_one(std::string(free_connections_query), deadline).number(0, 0) / 2;
  const Rows names = session_->ask_one(std::string(databases_query), deadline);
  for (int row = 0; row < names.size(); ++row) {
    std::string name(names.text(row, 0));
    if (excluded(name)) {
      if (for_dumps) globals_report_.not_covered.push_back({"excluded-database", std::move(name), 1});
      continue;
    }
    if (!names.flag(row, 1)) {
      if (for_dumps) globals_report_.not_covered.push_back({"closed-database", std::move(name), 1});
      continue;
    }
    Database& database = add_database(name);
    connections -= for_dumps ? 2 : 1;
    if (connections >= 0)
      open_database(database, deadline);
    else
      database.fail("no connections left for it: raise max_connections");
  }
  learn_lock_order(deadline);
  if (!options_.standby)
    rehearse_barrier(databases_, position(version_, options_.standby),
                     deadline.at_most(std::min(rehearsal_limit, deadline.left() / 2)));
  // A rehearsal that takes too long loses its sessions, and must not cost the dump.
  for (Database& database : databases_)
    if (!database.usable() && database.report.exactness != Exactness::failed) open_database(database, deadline);
  if (globals) collect_globals(std::move(*globals), deadline);
  checkpoint_within(std::min(deadline.left() / 2, deadline.left() - interrupt_reserve), deadline);
  if (!session_->usable()) throw QuiesceError(fmt::format("PostgreSQL {} does not answer", instance_));
}

/// Leaves little to write for the one inside the barrier. A slow disk is no reason to fail.
void ClusterEngine::checkpoint_within(milliseconds limit, const Deadline& deadline) {
  if (limit <= milliseconds{0}) return;
  Question question{session_.get(), fmt::format("SET statement_timeout = {}", limit.count())};
  ask_all({&question, 1}, deadline);
  question = {session_.get(), "CHECKPOINT"};
  ask_all({&question, 1}, deadline);
}

void ClusterEngine::read_cluster_facts(const Deadline& deadline) {
  version_ = session_->server_version();
  session_->ask("SET search_path = pg_catalog", deadline);
  const Rows facts = session_->ask_one(std::string(cluster_facts_query), deadline);
  version_text_ = facts.text(0, 3);
  data_directory_ = facts.text(0, 4);
  superuser_ = facts.flag(0, 0);
  if (!superuser_) {
    constexpr int first_with_roles = 150000;
    const std::string missing =
        version_ < first_with_roles
            ? "superuser"
            : std::string(session_->ask_one(std::string(missing_rights_query), deadline).text(0, 0));
    if (!missing.empty())
      throw QuiesceError(fmt::format("role {} of PostgreSQL {} lacks {}", server_.user, instance_, missing),
                         "grant it, or name a superuser as `user` in [postgresql] of agent.conf");
  }
  options_.hold_writers = config_.hold_writers && config_.postgresql.exact != ExactPolicy::off;
  options_.standby = facts.flag(0, 1);
  options_.deadlock_timeout = milliseconds(facts.number(0, 2));
  session_->ask(session_settings(version_, locker_idle), deadline);
  if (!options_.standby || !for_dumps_) return;
  if (version_ < oldest_pausable_version)
    not_paused_ = "the server is a standby, and before version 14";
  else if (config_.postgresql.exact == ExactPolicy::off || !config_.hold_writers)
    not_paused_ = "the server is a standby, and its replay is not to be paused";
  else if (!ReplayPause::permitted(*session_, deadline))
    not_paused_ = fmt::format("the server is a standby, and {} may not execute pg_wal_replay_pause() and _resume()",
                              server_.user);
  else
    waker_ = std::make_unique<Session>(server_, server_.database, cancellation_, deadline);
}

bool ClusterEngine::excluded(const std::string& database) const {
  return std::ranges::count(config_.postgresql.exclude_databases, database) != 0;
}

Database& ClusterEngine::add_database(const std::string& name) {
  Database& database = databases_.emplace_back();
  database.name = name;
  database.report = blank_report(name);
  return database;
}

void ClusterEngine::open_database(Database& database, const Deadline& deadline) {
  DatabaseReport& report = database.report;
  report.mode = options_.standby ? "standby" : options_.hold_writers ? "share-locks" : "none";
  try {
    if (for_dumps_) {
      report.dump = fmt::format("{}/{}/{}", engine(), instance_, dump_part(database.name));
      if (!protocol::is_dump_name(report.dump)) throw CaptureError("its name is too long for a dump's name");
      static_cast<void>(find_program("pg_dump", version_));
      database.holder = std::make_unique<Session>(server_, database.name, cancellation_, deadline);
      database.holder->ask(session_settings(version_, holder_idle), deadline);
    }
    database.locker = std::make_unique<Session>(server_, database.name, cancellation_, deadline);
    database.locker->ask(session_settings(version_, locker_idle), deadline);
    database.superuser = superuser_;
    database.read_relations(database.locker->ask_one(std::string(relations_query), deadline));
    database.order = learned_orders().recall(data_directory_, database.name);
    const Rows large_objects = database.locker->ask_one("SELECT count(*) FROM pg_largeobject_metadata", deadline);
    report.position["large_objects"] = large_objects.number(0, 0);
    if (!superuser_ && large_objects.number(0, 0) > 0)
      throw CaptureError("it has large objects, which only a superuser's dump has");
  } catch (const Error& error) {
    database.fail(error.what());
  }
}

void ClusterEngine::learn_lock_order(const Deadline& deadline) {
  if (options_.standby || !options_.hold_writers) return;
  for (int look = 0; look < looks && !deadline.passed(); ++look) {
    if (look != 0) sleep_or_wake(cancellation_, look_interval);
    const Rows rows = session_->ask_one(std::string(holdings_query), deadline);
    std::map<std::string, LockOrder::Holdings, std::less<>> by_database;
    for (int row = 0; row < rows.size(); ++row)
      by_database[std::string(rows.text(row, 0))][std::string(rows.text(row, 1))].insert(
          static_cast<Oid>(rows.number(row, 2)));
    for (Database& database : databases_)
      database.order.observe(by_database[database.name]);
  }
}

void ClusterEngine::collect_globals(RunningDump dump, const Deadline& deadline) {
  try {
    globals_ = read_dump(std::move(dump), finished_dump_limit, deadline.at_most(deadline.left() / 2));
  } catch (const Error& error) {
    // It is tried again when the dump is asked for; only that it is exact cannot be shown.
    globals_problem_ = error.what();
  }
}

void ClusterEngine::quiesce(const Deadline& deadline) {
  try {
    const Deadline limit = deadline.at_most(config_.barrier_limit);
    for (Database& database : databases_) {
      if (!database.usable() && database.report.exactness != Exactness::failed) database.fail("its session was lost");
      if (!database.usable()) continue;
      database.report.exactness = Exactness::exact;
      database.report.reason.clear();
    }
    read_prepared_transactions(limit);
    const SteadyClock::time_point begun = SteadyClock::now();
    take_barrier(databases_, options_, limit.at_most(limit.left() * 3 / 4));
    const auto took = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun);
    for (Database& database : databases_)
      database.report.acquired_in = took;
    pause_replay(limit);
    open_snapshots(limit);
    judge_standby(limit);
    attest();
    if (config_.postgresql.exact == ExactPolicy::require) refuse_what_is_not_held();
    quiesced_ = true;
  } catch (...) {
    replay_.reset();
    // Closing the sessions ends what they hold.
    for (Database& database : databases_)
      database.fail("the barrier failed");
    throw;
  }
}

void ClusterEngine::read_prepared_transactions(const Deadline& deadline) {
  std::vector<Question> questions;
  std::vector<Database*> asked;
  for (Database& database : databases_) {
    if (!database.usable()) continue;
    questions.push_back({database.locker.get(), std::string(prepared_transactions_query)});
    asked.push_back(&database);
  }
  ask_all(questions, deadline);
  for (std::size_t i = 0; i < asked.size(); ++i) {
    if (questions[i].answer.failure)
      asked[i]->fail(questions[i].answer.failure->message);
    else if (!questions[i].answer.rows.empty())
      asked[i]->read_prepared_transactions(questions[i].answer.rows.back());
  }
}

/// After the tables are pinned: a lock that is being replayed would not end in a pause.
void ClusterEngine::pause_replay(const Deadline& deadline) {
  if (!waker_) return;
  try {
    replay_.emplace(*session_, std::move(waker_), config_.guest_deadline + after_the_deadline,
                    deadline.at_most(deadline.left() / 2));
  } catch (const QuiesceError& error) {
    not_paused_ = fmt::format("the server is a standby: {}", error.what());
  }
}

/// Whether what its blocks recover to is what the database snapshots show.
void ClusterEngine::judge_standby(const Deadline& deadline) {
  if (!options_.standby || !for_dumps_) return;
  std::string reason = not_paused_;
  try {
    if (replay_) reason = replay_->why_not_equal(deadline);
  } catch (const QuiesceError& error) {
    reason = fmt::format("the standby does not say what it has received: {}", error.what());
  }
  if (reason.empty()) return;
  for (Database& database : databases_)
    database.skew(reason);
  if (globals_report_.exactness != Exactness::exact) return;
  globals_report_.exactness = Exactness::skewed;
  globals_report_.reason = reason;
}

void ClusterEngine::open_snapshots(const Deadline& deadline) {
  // The checkpoint runs beside: nothing that it must write is still being written.
  std::vector<Question> questions;
  std::vector<Database*> asked;
  const std::string where = position(version_, options_.standby);
  const milliseconds limit = std::min(checkpoint_limit, deadline.left() / 2);
  session_->ask(fmt::format("SET statement_timeout = {}", std::max<std::int64_t>(1, limit.count())), deadline);
  questions.push_back({session_.get(), options_.standby ? "SELECT 1" : "CHECKPOINT"});
  for (Database& database : databases_) {
    if (!database.usable()) continue;
    asked.push_back(&database);
    questions.push_back(database.holder ? Question{database.holder.get(), "SELECT pg_export_snapshot(), " + where}
                                        : Question{database.locker.get(), "SELECT '', " + where});
  }
  ask_all(questions, deadline);
  for (std::size_t i = 0; i < asked.size(); ++i) {
    Answer& answer = questions[i + 1].answer;
    if (answer.failure) {
      asked[i]->fail(answer.failure->message);
      continue;
    }
    asked[i]->snapshot = answer.rows.at(0).text(0, 0);
    asked[i]->report.position["lsn"] = std::string(answer.rows.at(0).text(0, 1));
  }
  const bool exact = checkpoint_answered(questions[0].answer, deadline);
  read_sequences(exact, deadline);
  find_new_databases(deadline);
  if (for_dumps_) prove_globals(deadline);
}

/// A checkpoint puts everything on disk: asynchronous commits, and sequences, whose log records run 32 values ahead.
/// Without one (a slow disk) the log is flushed by a record of our own. Returns whether sequences are exact on disk.
bool ClusterEngine::checkpoint_answered(const Answer& answer, const Deadline& deadline) {
  if (options_.standby) return true;
  if (!session_->usable())
    throw QuiesceError(fmt::format("PostgreSQL {}: {}", instance_,
                                   answer.failure ? answer.failure->message : "the checkpoint's session is lost"));
  if (answer.failure) session_->ask("SELECT pg_logical_emit_message(true, 'stillpoint', '')", deadline);
  for (Database& database : databases_) {
    if (!database.usable()) continue;
    const std::string lsn = database.report.position.value("lsn", "");
    if (session_->ask_one(flushed(version_, lsn), deadline).flag(0, 0)) continue;
    session_->ask("SELECT pg_logical_emit_message(true, 'stillpoint', '')", deadline);
    if (!session_->ask_one(flushed(version_, lsn), deadline).flag(0, 0))
      database.skew("the write-ahead log could not be flushed");
  }
  return !answer.failure;
}

void ClusterEngine::read_sequences(bool exact, const Deadline& deadline) {
  std::vector<Question> questions;
  std::vector<Database*> asked;
  for (Database& database : databases_) {
    if (!database.usable() || database.sequences.empty()) continue;
    asked.push_back(&database);
    questions.push_back({database.locker.get(), sequence_values(database.sequences)});
  }
  ask_all(questions, deadline);
  for (std::size_t i = 0; i < asked.size(); ++i) {
    Database& database = *asked[i];
    const Answer& answer = questions[i].answer;
    database.report.sequences.clear();
    if (answer.failure || !exact)
      database.report.not_covered.push_back({"sequence-values", {}, database.sequences.size()});
    if (answer.failure) {
      if (database.held)
        database.skew(
            fmt::format("its sequences could not be read, which ended the barrier: {}", answer.failure->message));
      continue;
    }
    for (const Rows& rows : answer.rows)
      for (int row = 0; row < rows.size(); ++row)
        database.report.sequences.push_back({database.sequences.at(static_cast<std::size_t>(rows.number(row, 0))),
                                             rows.number(row, 1), rows.flag(row, 2)});
  }
}

/// Those that prepare() could not know: the catalogue of databases is held now, so that there will be no more.
void ClusterEngine::find_new_databases(const Deadline& deadline) {
  Question question{session_.get(), std::string(databases_query)};
  ask_all({&question, 1}, deadline);
  if (question.answer.failure)
    return add_database({}).fail(
        fmt::format("the databases could not be listed again: {}", question.answer.failure->message));
  const Rows& names = question.answer.rows.at(0);
  for (int row = 0; row < names.size(); ++row) {
    const std::string name(names.text(row, 0));
    if (!excluded(name) && names.flag(row, 1) &&
        std::ranges::find(databases_, name, &Database::name) == databases_.end())
      add_database(name).fail("it was created after the preparation: the next still point will have it");
  }
}

void ClusterEngine::prove_globals(const Deadline& deadline) {
  if (globals_report_.exactness == Exactness::failed) return;
  if (!globals_) {
    globals_report_.exactness = Exactness::skewed;
    globals_report_.reason = fmt::format("not dumped before the barrier: {}", globals_problem_);
    return;
  }
  globals_report_.exactness = Exactness::skewed;
  try {
    if (session_->ask_one(globals_fingerprint(version_), deadline).text(0, 0) == globals_fingerprint_) {
      globals_report_.exactness = Exactness::exact;
      globals_report_.reason.clear();
      return;
    }
    globals_.reset();
    globals_report_.reason = "roles or tablespaces changed shortly before the barrier";
  } catch (const QuiesceError& error) {
    globals_report_.reason = fmt::format("roles and tablespaces could not be compared: {}", error.what());
  }
}

void ClusterEngine::attest() {
  for (Database& database : databases_) {
    DatabaseReport& report = database.report;
    if (!database.usable()) {
      // A session that was lost on the way, not by an answer of its own, must not leave its claim behind.
      if (report.exactness != Exactness::failed) database.fail("its session was lost inside the barrier");
      continue;
    }
    // A statement that failed has ended the transaction, and the locks with it.
    if (database.held && !database.locker->in_transaction()) {
      database.held = false;
      database.skew("its tables were let go inside the barrier");
    }
    for (const std::string& table : database.unlogged)
      report.not_covered.push_back({"unlogged-table", table, 1});
    for (const NotCovered& transaction : database.prepared_transactions)
      report.not_covered.push_back(transaction);
    if (config_.postgresql.exact == ExactPolicy::off)
      database.skew("its writers are not held: agent.conf says exact=off");
    else if (!database.out_of_reach.empty())
      database.skew(fmt::format("prepared transaction '{}' holds locks on {} of its tables",
                                database.prepared_transactions.front().name, database.out_of_reach.size()));
    if (!database.held && report.mode == "share-locks") report.mode = "none";
    if (!for_dumps_) {
      report.exactness = Exactness::failed;
      if (report.reason.empty()) report.reason = "no dump was asked for";
    }
  }
}

/// For agent.conf's exact=require.
void ClusterEngine::refuse_what_is_not_held() const {
  if (for_dumps_) return refuse_unless_exact(report());
  for (const Database& database : databases_)
    if (!database.held)
      throw QuiesceError(fmt::format("exact=require in agent.conf, and PostgreSQL {} {} is not held: {}", instance_,
                                     database.name, database.report.reason));
}

void ClusterEngine::remember_lock_orders() noexcept {
  try {
    for (Database& database : databases_) {
      std::vector<Oid> oids;
      for (const Table& table : database.tables)
        oids.push_back(table.oid);
      database.order.forget_all_but(oids);
      learned_orders().remember(data_directory_, database.name, std::move(database.order));
    }
  } catch (const std::exception&) {
    // Without memory for it, it is learned again.
  }
}

void ClusterEngine::release(const Deadline& deadline) noexcept {
  try {
    if (replay_) judge_standby(deadline);
  } catch (const std::exception&) {
    // Only memory can be missing here.
  }
  replay_.reset();
  release_barrier(databases_, deadline);
}

void ClusterEngine::begin_dumps() noexcept {
  if (!std::exchange(quiesced_, false) || !for_dumps_) return;
  for (const Database& database : databases_) {
    if (database.snapshot.empty() || early_dumps_.size() >= max_early_dumps) continue;
    try {
      early_dumps_.emplace(database.report.dump, dump_database(server_, version_, database.name, database.snapshot));
    } catch (const std::exception&) {
      // start_dump() tries again, and says why it cannot.
    }
  }
}

std::vector<DatabaseReport> ClusterEngine::report() const {
  std::vector<DatabaseReport> reports;
  if (for_dumps_) reports.push_back(globals_report_);
  for (const Database& database : databases_)
    reports.push_back(database.report);
  return reports;
}

RunningDump ClusterEngine::start_dump(std::string_view name) {
  if (const auto early = early_dumps_.find(name); early != early_dumps_.end()) {
    RunningDump dump = std::move(early->second);
    early_dumps_.erase(early);
    return dump;
  }
  if (!globals_report_.dump.empty() && name == globals_report_.dump)
    return globals_ ? finished_dump(*globals_) : dump_globals(server_, version_);
  for (const Database& database : databases_) {
    if (database.report.dump.empty() || database.report.dump != name) continue;
    if (database.snapshot.empty() || !database.holder || !database.holder->usable())
      throw CaptureError(fmt::format("the database snapshot of {} is not open", name));
    return dump_database(server_, version_, database.name, database.snapshot);
  }
  throw NotFound(fmt::format("there is no dump named {}", name));
}

RunningCheck ClusterEngine::start_check(std::string_view name) {
  if (!superuser_) throw NotFound("the agent is no superuser of the server, and pg_amcheck needs one");
  for (const Database& database : databases_)
    if (!name.empty() && database.report.dump == name) return check_database(server_, version_, database.name);
  throw NotFound(fmt::format("{} is of no database", name));
}

void ClusterEngine::finish() noexcept {
  early_dumps_.clear();
  remember_lock_orders();
  databases_.clear();
  replay_.reset();
  waker_.reset();
  not_paused_.clear();
  session_.reset();
  globals_.reset();
  globals_report_ = {};
  quiesced_ = false;
  cancellation_.reset();
}

void ClusterEngine::cancel() noexcept {
  cancellation_.cancel();
}

}  // namespace stillpoint::postgresql
