// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-barrier.hh"

#include "common/log.hh"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace stillpoint::mysql {
namespace {

/// One wait for a lock, in whole seconds as MySQL wants it: others may queue up behind us for that long.
constexpr std::chrono::seconds one_wait{1};
/// The time that they get between two attempts.
constexpr std::chrono::milliseconds pause{50};
/// One wait for the read lock: the first, and the longest of those that follow.
constexpr std::chrono::milliseconds first_lock_wait{100};
constexpr std::chrono::milliseconds longest_lock_wait{800};
/// The server's error for a statement that was interrupted (MySQL's ER_QUERY_INTERRUPTED).
constexpr int interrupted = 1317;
/// Undoing happens after the deadline that was missed.
constexpr std::chrono::milliseconds undo_limit{1000};

/// Calls `expired` from a thread of its own when it lives longer than `limit`. Its end waits for that call.
class Timer {
 public:
  template <typename F>
  Timer(std::chrono::milliseconds limit, F expired)
      : thread_([this, limit, expired = std::move(expired)](const std::stop_token& stop) {
          std::unique_lock lock(mutex_);
          if (!ended_.wait_for(lock, stop, limit, [&] { return stop.stop_requested(); })) expired();
        }) {}

 private:
  std::mutex mutex_;
  std::condition_variable_any ended_;
  std::jthread thread_;  // last: it ends before what it uses
};

}  // namespace

std::string_view to_string(BarrierKind kind) {
  switch (kind) {
    case BarrierKind::none:
      return "none";
    case BarrierKind::backup_stage:
      return "backup-stage";
    case BarrierKind::read_lock:
      return "ftwrl";
  }
  return "none";
}

BarrierKind best_barrier(const Server& server) {
  return server.mariadb && server.version_number >= 100401 ? BarrierKind::backup_stage : BarrierKind::read_lock;
}

template <typename Take>
void Barrier::attempt(const Deadline& deadline, const Take& take) {
  const auto least_wait = kind_ == BarrierKind::read_lock ? 2 * first_lock_wait : std::chrono::milliseconds(one_wait);
  for (;;) {
    if (!held_) ++attempts_;  // not the second half of one
    try {
      return take();
    } catch (const SessionError& error) {
      undo(Deadline(undo_limit));
      const bool in_vain = error.code() == lock_wait_timeout || error.code() == interrupted;
      const bool again = in_vain && deadline.left() > pause + least_wait && session_.alive();
      if (!again) throw;
    }
    std::this_thread::sleep_for(pause);
  }
}

void Barrier::hold_definitions(const Deadline& deadline) {
  session_.execute(fmt::format("SET SESSION lock_wait_timeout={}, SESSION wait_timeout={}", one_wait.count(),
                               abandoned_after_.count()),
                   deadline);
  if (kind_ != BarrierKind::backup_stage) return;
  attempt(deadline, [&] {
    session_.execute("BACKUP STAGE START", deadline);
    held_ = true;
    session_.execute("BACKUP STAGE FLUSH", deadline);
    session_.execute("BACKUP STAGE BLOCK_DDL", deadline);
  });
}

void Barrier::take_stages(const Deadline& deadline) {
  if (!held_) {
    session_.execute("BACKUP STAGE START", deadline);
    held_ = true;
    session_.execute("BACKUP STAGE FLUSH", deadline);
    session_.execute("BACKUP STAGE BLOCK_DDL", deadline);
  }
  session_.execute("BACKUP STAGE BLOCK_COMMIT", deadline);
}

void Barrier::hold_writers(const Deadline& deadline) {
  if (kind_ == BarrierKind::none) return;
  attempt(deadline, [&] {
    if (kind_ == BarrierKind::backup_stage) return take_stages(deadline);
    held_ = true;  // even a read lock that fails may have been taken in part
    lock_tables(deadline);
  });
}

/// The lock waits for running statements, and those may wait for rows of a transaction that now waits for us: nobody
/// would get on before innodb_lock_wait_timeout. So the waits are short, longer only after every fourth.
void Barrier::lock_tables(const Deadline& deadline) {
  const std::string interrupt = "KILL QUERY " + session_.value("SELECT CONNECTION_ID()", deadline);
  const auto longer = first_lock_wait * (1U << std::min<std::uint64_t>((attempts_ - 1) / 4, 8));
  const auto wait = std::min({longer, longest_lock_wait, deadline.left() - pause});
  bool late = false;
  try {
    const Timer timer(wait, [&] {
      late = true;
      try {
        second_.execute(interrupt, deadline);
      } catch (const std::exception& error) {
        log_info("cannot interrupt the wait for a read lock, it ends by itself: {}", error.what());
      }
    });
    session_.execute("FLUSH TABLES WITH READ LOCK", deadline);
  } catch (const SessionError& error) {
    if (error.code() != interrupted || !late) throw;
    throw SessionError("statements that ran for too long, or waited for each other, kept the read lock away",
                       interrupted);
  }
  if (!late) return;
  // Granted at the last moment: the interruption is still to come, and may hit this instead of what follows.
  try {
    session_.execute("DO 0", deadline);
  } catch (const SessionError& error) {
    if (error.code() != interrupted) throw;
  }
}

void Barrier::flush_log(const Server& server, const Deadline& deadline) {
  // MySQL before 5.7 does not know the log by this name, nor any other way.
  if (!server.mariadb && server.version_number < 50700) return;
  session_.execute("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", deadline);
}

void Barrier::flush(const Server& server, const Deadline& deadline) {
  // MariaDB does nothing at all for that statement while the setting is 0: set it for the moment. With 2 it writes the
  // log and leaves it to the kernel, which is enough: freezing a file system syncs it.
  const std::string setting = "SET GLOBAL innodb_flush_log_at_trx_commit=";
  const bool lazy = server.mariadb && session_.value("SELECT @@global.innodb_flush_log_at_trx_commit", deadline) == "0";
  if (!lazy) return flush_log(server, deadline);
  const auto restore = [&](const Deadline& limit) {
    try {
      // A session that ran out of time is lost.
      (session_.alive() ? session_ : second_).execute(setting + "0", limit);
    } catch (const SessionError& error) {
      log_warning("{} {}: innodb_flush_log_at_trx_commit was 0 and is left at 1: {}", server.engine(), server.instance,
                  error.what());
      throw;
    }
  };
  try {
    session_.execute(setting + "1", deadline);
    flush_log(server, deadline);
  } catch (const SessionError&) {
    restore(Deadline(undo_limit));
    throw;
  }
  restore(deadline);
}

void Barrier::undo(const Deadline& deadline) noexcept {
  static_cast<void>(release(deadline));
}

bool Barrier::release(const Deadline& deadline) noexcept {
  if (!held_) return true;
  held_ = false;
  const bool stood = session_.alive();
  try {
    session_.execute(kind_ == BarrierKind::backup_stage ? "BACKUP STAGE END" : "UNLOCK TABLES", deadline);
    return true;
  } catch (const std::exception&) {
    session_.abandon();
    return stood && deadline.passed();
  }
}

}  // namespace stillpoint::mysql
