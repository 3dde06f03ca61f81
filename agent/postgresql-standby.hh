// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/postgresql-session.hh"
#include "common/clock.hh"

#include <chrono>
#include <memory>
#include <string>

namespace stillpoint::postgresql {

/// Versions before 14 do not tell when a pause has begun.
inline constexpr int oldest_pausable_version = 140000;

/// A standby whose replay stands still: its database snapshots are of one position, and no page of its data is of a
/// later one.
///
/// A pause outlives the session that asked for it. So another session waits inside the server and ends it after
/// `at_most`, whatever becomes of the agent. A pause that somebody else began is left to him.
class ReplayPause {
 public:
  /// Whether the role may pause and resume. Throws QueryError.
  [[nodiscard]] static bool permitted(Session& session, const Deadline& deadline);

  /// Pauses, and waits until nothing is replayed. `session` outlives the pause; `waker` is used up. Throws QuiesceError
  /// when it does not come about in time.
  ReplayPause(Session& session, std::unique_ptr<Session> waker, std::chrono::milliseconds at_most,
              const Deadline& deadline);
  ReplayPause(const ReplayPause&) = delete;
  ReplayPause& operator=(const ReplayPause&) = delete;
  /// Resumes; what fails is left to the waker.
  ~ReplayPause();

  /// What has been replayed: "0/3000148".
  [[nodiscard]] const std::string& position() const noexcept { return position_; }

  /// Why a server that recovers the blocks as they are now would not stop at position(): its log goes on, or what
  /// comes after it may have arrived. Empty when it would. Throws QueryError.
  [[nodiscard]] std::string why_not_equal(const Deadline& deadline);

 private:
  void wait_until_paused(const Deadline& deadline);
  void resume() noexcept;

  Session& session_;
  std::unique_ptr<Session> waker_;  ///< null when the pause is somebody else's
  std::string position_;
  std::string receiver_;  ///< the WAL receiver's process at the first why_not_equal()
};

}  // namespace stillpoint::postgresql
