// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql-barrier.hh"

#include "agent/postgresql-queries.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace stillpoint::postgresql {

namespace {

using std::chrono::milliseconds;

/// Waiting for a lock makes the application's other writers queue behind us: try shortly first.
constexpr std::array<milliseconds, 3> lock_waits{milliseconds(150), milliseconds(300), milliseconds(600)};
constexpr int max_timeouts = 3;
constexpr int max_deadlocks = 12;
constexpr int max_rounds = 30;

namespace sqlstate {
constexpr std::string_view deadlock = "40P01";
constexpr std::string_view lock_timeout = "55P03";
constexpr std::string_view query_cancelled = "57014";
constexpr std::string_view out_of_memory = "53200";
constexpr std::string_view undefined_table = "42P01";
constexpr std::string_view undefined_schema = "3F000";
}  // namespace sqlstate

/// One attempt on all databases together.
class Round {
 public:
  Round(std::span<Database> databases, const BarrierOptions& options, const Deadline& deadline)
      : databases_(databases), options_(options), deadline_(deadline) {}

  /// Whether everything that is still wanted is held.
  bool run() {
    pin();
    if (failed_.empty()) lock();
    if (failed_.empty()) return true;
    roll_back();
    return false;
  }

 private:
  [[nodiscard]] milliseconds lock_wait(const Database& database) const {
    const milliseconds wanted = lock_waits.at(static_cast<std::size_t>(std::min(database.timeouts, max_timeouts - 1)));
    // Half of what is left: the other half is for rolling back, and going on without the locks.
    return std::max(milliseconds(1), std::min({wanted, longest(), deadline_.left() / 2}));
  }

  /// Below the applications' deadlock_timeout, so that a cycle which closes behind us never costs them a transaction.
  [[nodiscard]] milliseconds longest() const { return std::max(milliseconds(50), options_.deadlock_timeout * 9 / 10); }

  [[nodiscard]] std::string begin(const Database& database, std::string_view how) const {
    // Ended by the server in time, the session stays.
    const milliseconds statement = std::max(milliseconds(1), std::min(longest(), deadline_.left() * 3 / 4));
    return fmt::format("BEGIN {}; {}", how, local_limits(lock_wait(database), statement));
  }

  [[nodiscard]] bool holds(const Database& database) const {
    return options_.hold_writers && !options_.standby && database.wants_hold;
  }

  /// The holder's locks come first: a TRUNCATE that queues behind the locker would otherwise keep the holder out.
  void pin() {
    ask([](Database& d) { return d.holder.get(); },
        [this](const Database& d) {
          return begin(d, "ISOLATION LEVEL REPEATABLE READ READ ONLY") + lock_tables(d.names(false), "ACCESS SHARE");
        },
        [](Database&, Answer&) { return true; });
  }

  void lock() {
    ask([](Database& d) { return d.locker.get(); },
        [this](const Database& d) {
          std::string statements = begin(d, "ISOLATION LEVEL READ COMMITTED");
          if (holds(d)) statements += lock_tables(d.reachable_names(), "SHARE") + lock_tables(d.names(true), "SHARE");
          return fmt::format("{}{}; {}", statements, relations_query, in_flight_query);
        },
        [](Database& d, Answer& answer) {
          // Tables that came into being after the list was made: known now, locked in the next attempt.
          if (answer.rows.size() < 2 || d.read_relations(answer.rows[0])) return false;
          d.in_flight.clear();
          for (int row = 0; row < answer.rows[1].size(); ++row)
            d.in_flight.emplace_back(answer.rows[1].text(row, 0));
          return true;
        });
    for (Database& database : databases_)
      database.held = failed_.empty() && database.usable() && holds(database);
  }

  template <typename Which, typename What, typename Take>
  void ask(Which which, What what, Take take) {
    std::vector<Question> questions;
    std::vector<Database*> asked;
    for (Database& database : databases_) {
      if (!database.usable() || which(database) == nullptr) continue;
      questions.push_back({which(database), what(database)});
      asked.push_back(&database);
    }
    ask_all(questions, deadline_);
    for (std::size_t i = 0; i < asked.size(); ++i) {
      Answer& answer = questions[i].answer;
      if (answer.failure)
        note(*asked[i], *answer.failure, questions[i].session->backend_pid());
      else if (!take(*asked[i], answer))
        failed_.push_back({asked[i], "its tables change all the time"});
    }
  }

  void note(Database& database, const Failure& failure, int own_pid) {
    if (failure.sqlstate == sqlstate::deadlock) {
      database.order.learn(parse_deadlock(failure.detail), own_pid);
      ++database.deadlocks;
    } else if (failure.sqlstate == sqlstate::lock_timeout || failure.sqlstate == sqlstate::query_cancelled) {
      ++database.timeouts;
    } else if (failure.sqlstate == sqlstate::out_of_memory) {
      const std::string reason = "the server's lock table is too small for its tables: raise max_locks_per_transaction";
      if (!std::exchange(database.wants_hold, false))
        database.fail(reason);  // not even pinned
      else
        database.skew(reason);
    } else if (failure.sqlstate != sqlstate::undefined_table && failure.sqlstate != sqlstate::undefined_schema) {
      database.fail(failure.message);
    }
    failed_.push_back({&database, failure.message});
  }

  /// Ends all transactions, everywhere; reads anew what failed, and who was in its way.
  void roll_back() {
    std::vector<Question> questions;
    std::vector<Database*> read;
    for (Database& database : databases_) {
      database.held = false;
      if (!database.usable()) continue;
      if (database.holder) questions.push_back({database.holder.get(), "ROLLBACK"});
      questions.push_back({database.locker.get(), "ROLLBACK"});
    }
    ask_all(questions, deadline_);
    questions.clear();
    for (const auto& [database, why] : failed_) {
      if (!database->usable()) continue;
      questions.push_back({database->locker.get(), fmt::format("{}; {}", relations_query, blockers_query)});
      read.push_back(database);
    }
    ask_all(questions, deadline_);
    for (std::size_t i = 0; i < read.size(); ++i) {
      Answer& answer = questions[i].answer;
      if (answer.failure || answer.rows.size() < 2) continue;
      read[i]->read_relations(answer.rows[0]);
      if (read[i]->timeouts >= max_timeouts || read[i]->deadlocks >= max_deadlocks) give_up(*read[i], &answer.rows[1]);
    }
  }

 public:
  /// Stops wanting the writers of that database held; when not even its tables can be pinned, there will be no dump.
  static void give_up(Database& database, const Rows* blocker) {
    std::string reason = "its tables could not be locked in time";
    if (blocker != nullptr && blocker->size() > 0)
      reason = fmt::format("its tables could not be locked: process {} ('{}') has held {} for {} s",
                           blocker->text(0, 1), blocker->text(0, 2), blocker->text(0, 0), blocker->text(0, 3));
    if (!database.wants_hold) return database.fail(std::move(reason));
    database.wants_hold = false;
    database.timeouts = max_timeouts - 1;
    database.deadlocks = max_deadlocks - 1;
    database.skew(std::move(reason));
  }

 private:
  struct Failed {
    Database* database;
    std::string why;
  };

  std::span<Database> databases_;
  const BarrierOptions& options_;
  Deadline deadline_;
  std::vector<Failed> failed_;
};

}  // namespace

void rehearse_barrier(std::span<Database> databases, const std::string& position, const Deadline& deadline) {
  // A table that somebody changes right now is left cold rather than waited for.
  constexpr milliseconds lock_wait{100};
  const std::string limits = local_limits(lock_wait, deadline.left() / 2);  // ended by the server, the session stays
  std::vector<Question> work;
  std::vector<Question> end;
  for (const Database& database : databases) {
    if (!database.usable()) continue;
    const std::string tables = lock_tables(database.names(false), "ACCESS SHARE");
    if (database.holder) {
      work.push_back({database.holder.get(), fmt::format("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {}{}"
                                                         "SELECT pg_export_snapshot(), {}",
                                                         limits, tables, position)});
      end.push_back({database.holder.get(), "ROLLBACK"});
    }
    std::string locker =
        fmt::format("BEGIN; {}{}{}{}; {}", limits, tables, lock_tables(database.names(true), "ACCESS SHARE"),
                    relations_query, in_flight_query);
    if (!database.sequences.empty()) locker += "; " + sequence_values(database.sequences);
    work.push_back({database.locker.get(), std::move(locker)});
    end.push_back({database.locker.get(), "ROLLBACK"});
  }
  ask_all(work, deadline);
  ask_all(end, deadline);
}

void take_barrier(std::span<Database> databases, const BarrierOptions& options, const Deadline& deadline) {
  // The last part of the time is for going on without locks.
  const Deadline lock_deadline = deadline.at_most(deadline.left() * 3 / 4);
  for (int round = 1; round <= max_rounds && !deadline.passed(); ++round) {
    if (lock_deadline.passed() || round == max_rounds - 2)
      for (Database& database : databases)
        if (database.usable() && database.wants_hold && database.timeouts + database.deadlocks > 0)
          Round::give_up(database, nullptr);
    for (Database& database : databases)
      database.report.attempts = static_cast<std::uint64_t>(round);
    if (Round(databases, options, deadline).run()) return;
  }
  for (Database& database : databases)
    if (database.usable()) database.fail("its tables could not be locked in time");
}

namespace {

bool compares_catalogues(const Database& database) {
  return database.held && !database.watched.empty() && database.holder && database.holder->usable();
}

/// The fingerprints as the database snapshots show them, when nobody waits any more; empty where there is none.
std::vector<std::string> catalogues_of_snapshots(std::span<Database* const> databases, const Deadline& deadline) {
  std::vector<std::string> fingerprints(databases.size());
  std::vector<Question> questions;
  std::vector<std::size_t> asked;
  for (std::size_t i = 0; i < databases.size(); ++i) {
    if (!compares_catalogues(*databases[i])) continue;
    questions.push_back({databases[i]->holder.get(), catalogue_fingerprint(databases[i]->watched)});
    asked.push_back(i);
  }
  ask_all(questions, deadline, Interruptible::no);
  for (std::size_t i = 0; i < asked.size(); ++i)
    if (!questions[i].answer.failure && !questions[i].answer.rows.empty())
      fingerprints[asked[i]] = questions[i].answer.rows.back().text(0, 0);
  return fingerprints;
}

}  // namespace

void release_barrier(std::span<Database> databases, const Deadline& deadline) noexcept {
  try {
    std::vector<Question> questions;
    std::vector<Database*> asked;
    for (Database& database : databases) {
      if (!database.locker) continue;
      if (database.held && !database.locker->in_transaction()) database.skew("the barrier's session was lost");
      if (!database.locker->usable()) continue;
      std::string last;
      if (database.held && !database.in_flight.empty())
        last += committed(database.locker->server_version(), database.in_flight) + "; ";
      if (compares_catalogues(database)) last += catalogue_fingerprint(database.watched) + "; ";
      questions.push_back({database.locker.get(), last + "ROLLBACK"});
      asked.push_back(&database);
    }
    ask_all(questions, deadline, Interruptible::no);
    const std::vector<std::string> before = catalogues_of_snapshots(asked, deadline);
    for (std::size_t i = 0; i < asked.size(); ++i) {
      Database& database = *asked[i];
      const Answer& answer = questions[i].answer;
      if (database.held && answer.failure)
        database.skew(fmt::format("the barrier's end could not be checked: {}", answer.failure->message));
      else if (database.held && !database.in_flight.empty() && answer.rows.front().size() > 0)
        database.skew(fmt::format("transaction {} changed the schema or large objects and committed inside the barrier",
                                  answer.rows.front().text(0, 0)));
      else if (compares_catalogues(database) && (answer.rows.empty() || answer.rows.back().text(0, 0) != before[i]))
        database.skew("the schema changed inside the barrier, which only a superuser can prevent");
      database.held = false;
    }
  } catch (const std::exception&) {
    // Out of memory, at worst: closing the sessions ends their transactions.
    for (Database& database : databases)
      if (database.locker) database.locker.reset();
  }
}

}  // namespace stillpoint::postgresql
