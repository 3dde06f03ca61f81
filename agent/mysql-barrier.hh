// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/mysql-server.hh"
#include "agent/mysql-session.hh"
#include "common/clock.hh"

#include <chrono>
#include <cstdint>
#include <string_view>

namespace stillpoint::mysql {

/// How a server's writers are held.
enum class BarrierKind {
  none,          ///< not at all: the tests' negative control
  backup_stage,  ///< MariaDB 10.4 and later: only commits wait, a long statement runs on
  read_lock,     ///< FLUSH TABLES WITH READ LOCK: waits for running statements, and everybody waits behind it
};

[[nodiscard]] std::string_view to_string(BarrierKind kind);

/// The best that the server can do.
[[nodiscard]] BarrierKind best_barrier(const Server& server);

/// Holds the writers of one server, in one session: when that session ends, for whatever reason, the server lets go.
/// Kills nobody's statement but its own.
class Barrier {
 public:
  /// `session` outlives it, and so does `second`, from which a read lock that waits too long is interrupted, and what a
  /// lost session has set is set back. `abandoned_after`: the server ends the session when we are silent that long
  /// while the barrier stands.
  Barrier(Session& session, Session& second, BarrierKind kind, std::chrono::seconds abandoned_after) noexcept
      : session_(session), second_(second), kind_(kind), abandoned_after_(abandoned_after) {}

  /// Bounds the session's waits, and keeps tables from being created, altered or dropped where the server can do that
  /// alone. Data changes go on. Throws SessionError with nothing held.
  void hold_definitions(const Deadline& deadline);

  /// Holds the data as well: nothing is committed from here on. Throws SessionError with nothing held.
  void hold_writers(const Deadline& deadline);

  /// Everything committed is with the kernel, whatever the server's settings for flushing are. Throws SessionError.
  void flush(const Server& server, const Deadline& deadline);

  /// Lets go; when the server does not answer, by ending the session. False when the barrier had ended before.
  bool release(const Deadline& deadline) noexcept;

  [[nodiscard]] BarrierKind kind() const noexcept { return kind_; }
  /// How often the locks were asked for.
  [[nodiscard]] std::uint64_t attempts() const noexcept { return attempts_; }

 private:
  void flush_log(const Server& server, const Deadline& deadline);
  void take_stages(const Deadline& deadline);
  void lock_tables(const Deadline& deadline);
  void undo(const Deadline& deadline) noexcept;
  template <typename Take>
  void attempt(const Deadline& deadline, const Take& take);

  Session& session_;
  Session& second_;
  BarrierKind kind_;
  std::chrono::seconds abandoned_after_;
  std::uint64_t attempts_ = 0;
  bool held_ = false;
};

}  // namespace stillpoint::mysql
