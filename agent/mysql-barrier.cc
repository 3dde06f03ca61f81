// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-barrier.hh"

#include "common/log.hh"

#include <fmt/format.h>

#include <thread>

namespace stillpoint::mysql {
namespace {

/// One wait for a lock, in whole seconds as MySQL wants it: others may queue up behind us for that long.
constexpr std::chrono::seconds one_wait{1};
/// The time that they get between two attempts.
constexpr std::chrono::milliseconds pause{150};
/// Undoing happens after the deadline that was missed.
constexpr std::chrono::milliseconds undo_limit{1000};

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
  for (;;) {
    if (!held_) ++attempts_;  // not the second half of one
    try {
      return take();
    } catch (const SessionError& error) {
      undo(Deadline(undo_limit));
      const bool again = error.code() == lock_wait_timeout && deadline.left() > pause + one_wait && session_.alive();
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
    session_.execute("FLUSH TABLES WITH READ LOCK", deadline);
  });
}

void Barrier::flush_ahead(const Server& server, const Deadline& deadline) {
  // MySQL before 5.7 does not know the log by this name, nor any other way.
  if (!server.mariadb && server.version_number < 50700) return;
  session_.execute("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS", deadline);
}

void Barrier::flush(const Server& server, const Deadline& deadline) {
  // MariaDB does nothing at all for that statement while the setting is 0: set it for the moment. With 2 it writes the
  // log and leaves it to the kernel, which is enough: freezing a file system syncs it.
  const std::string setting = "SET GLOBAL innodb_flush_log_at_trx_commit=";
  const bool lazy = server.mariadb && session_.value("SELECT @@global.innodb_flush_log_at_trx_commit", deadline) == "0";
  if (lazy) session_.execute(setting + "1", deadline);
  flush_ahead(server, deadline);
  if (!lazy) return;
  try {
    session_.execute(setting + "0", deadline);
  } catch (const SessionError& error) {
    log_warning("{} {}: innodb_flush_log_at_trx_commit was 0 and is left at 1: {}", server.engine(), server.instance,
                error.what());
    throw;
  }
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
