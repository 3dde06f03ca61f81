// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql-standby.hh"

#include "common/errors.hh"
#include "common/log.hh"

#include <fmt/format.h>

#include <thread>
#include <utility>

namespace stillpoint::postgresql {

namespace {

constexpr std::chrono::milliseconds poll_interval{5};
/// For resuming when the session's caller has no time left.
constexpr std::chrono::seconds resume_limit{2};

}  // namespace

bool ReplayPause::permitted(Session& session, const Deadline& deadline) {
  return session
      .ask_one(
          "SELECT has_function_privilege('pg_wal_replay_pause()', 'EXECUTE') AND "
          "has_function_privilege('pg_wal_replay_resume()', 'EXECUTE')",
          deadline)
      .flag(0, 0);
}

ReplayPause::ReplayPause(Session& session, std::unique_ptr<Session> waker, std::chrono::milliseconds at_most,
                         const Deadline& deadline)
    : session_(session) {
  const Rows state = session_.ask_one("SELECT pg_get_wal_replay_pause_state()", deadline);
  if (state.text(0, 0) == "not paused") {
    // One statement: between two the server would notice that nobody is there for the first one's answer. Sent before
    // the pause, it is read also when the agent is killed right after.
    waker->ask("SET statement_timeout = 0; SET client_connection_check_interval = 0", deadline);
    waker->send(
        fmt::format("SELECT pg_sleep({:.3f}), pg_wal_replay_resume()", std::chrono::duration<double>(at_most).count()),
        deadline);
    waker_ = std::move(waker);
    session_.ask("SELECT pg_wal_replay_pause()", deadline);
  }
  try {
    wait_until_paused(deadline);
    position_ = session_.ask_one("SELECT pg_last_wal_replay_lsn()", deadline).text(0, 0);
  } catch (...) {
    resume();
    throw;
  }
}

void ReplayPause::wait_until_paused(const Deadline& deadline) {
  while (session_.ask_one("SELECT pg_get_wal_replay_pause_state()", deadline).text(0, 0) != "paused") {
    // A record that conflicts with a query is replayed first, and waits for it.
    if (deadline.left() <= 2 * poll_interval) throw QuiesceError("its replay could not be paused in time");
    std::this_thread::sleep_for(poll_interval);
  }
}

ReplayPause::~ReplayPause() {
  resume();
}

void ReplayPause::resume() noexcept {
  if (!waker_) return;
  try {
    const Deadline deadline(resume_limit);
    // First the waker: it must not end a pause that somebody begins later.
    session_.ask(fmt::format("SELECT pg_terminate_backend({}); SELECT pg_wal_replay_resume()", waker_->backend_pid()),
                 deadline);
  } catch (const std::exception& error) {
    log_warning("a standby's replay stays paused a little longer: {}", error.what());
  }
  waker_.reset();
}

std::string ReplayPause::why_not_equal(const Deadline& deadline) {
  // A receiver that streams has found everything replayed that the server had in its log, and writes on from there.
  const Rows rows = session_.ask_one(
      "SELECT pg_last_wal_replay_lsn(), pid, greatest(pg_last_wal_receive_lsn(), written_lsn) <= "
      "pg_last_wal_replay_lsn() FROM (SELECT) AS one LEFT JOIN pg_stat_wal_receiver ON status = 'streaming'",
      deadline);
  if (rows.text(0, 0) != position_) return "its replay was resumed inside the barrier";
  const std::string equal = fmt::format(
      "its blocks are equal to the dump when recovered with recovery_target_lsn = '{}' and recovery_target_inclusive = "
      "off",
      position_);
  if (rows.is_null(0, 1)) return fmt::format("the server is a standby that receives no log: {}", equal);
  if (!rows.flag(0, 2))
    return fmt::format("the server is a standby that has received more than it replayed: {}", equal);
  if (receiver_.empty()) receiver_ = rows.text(0, 1);
  if (rows.text(0, 1) != receiver_) return fmt::format("the standby's receiver was started anew: {}", equal);
  return {};
}

}  // namespace stillpoint::postgresql
