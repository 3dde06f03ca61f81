// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/os-user.hh"
#include "common/clock.hh"
#include "common/deleter.hh"
#include "common/errors.hh"
#include "common/file.hh"

#include <libpq-fe.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Sessions on a PostgreSQL server. Plain libpq, because libpqxx 6 waits without a time limit and for one session at a
/// time, and a barrier must do neither.
namespace stillpoint::postgresql {

/// Where a cluster listens and who we are there.
struct Server {
  std::string socket_directory;
  std::string port;
  std::string user;                   ///< the role
  std::optional<OsUser> os_user;      ///< whose uid the server must see; empty: our own
  std::string database = "postgres";  ///< for what concerns the whole cluster
};

/// Wakes whoever waits for a server, from any thread.
class Cancellation {
 public:
  Cancellation();
  /// All waits fail from now on, until reset(). Async-signal-safe.
  void cancel() noexcept;
  void reset() noexcept;
  [[nodiscard]] int fd() const noexcept { return event_.get(); }

 private:
  UniqueFd event_;
};

/// Why a query has no answer.
struct Failure {
  std::string sqlstate;  ///< five characters; empty when it did not come from the server
  std::string message;   ///< one line
  std::string detail;    ///< the server's DETAIL, may have several lines
};

/// A failure that its caller did not expect.
class QueryError : public QuiesceError {
 public:
  explicit QueryError(const Failure& failure) : QuiesceError(failure.message), failure_(failure) {}
  [[nodiscard]] const Failure& failure() const noexcept { return failure_; }

 private:
  Failure failure_;
};

/// The rows of one statement.
class Rows {
 public:
  explicit Rows(PGresult* result) noexcept : result_(result) {}
  [[nodiscard]] int size() const noexcept { return PQntuples(result_.get()); }
  /// Empty for NULL.
  [[nodiscard]] std::string_view text(int row, int column) const;
  [[nodiscard]] bool is_null(int row, int column) const noexcept {
    return PQgetisnull(result_.get(), row, column) != 0;
  }
  [[nodiscard]] bool flag(int row, int column) const { return text(row, column) == "t"; }
  /// Throws QuiesceError when it is not a number.
  [[nodiscard]] std::int64_t number(int row, int column) const;

 private:
  CPtr<PGresult, PQclear> result_;
};

/// What came of one query: the rows of each of its statements that yields some, in order, or the failure.
struct Answer {
  std::vector<Rows> rows;
  std::optional<Failure> failure;
};

class Session {
 public:
  /// Connects. Throws QueryError (sqlstate empty) saying why not. `cancellation` outlives the session.
  Session(const Server& server, const std::string& database, const Cancellation& cancellation,
          const Deadline& deadline);
  Session(Session&&) noexcept = default;
  Session& operator=(Session&&) noexcept = default;
  /// Closes without waiting for the server.
  ~Session();

  /// Sends one or several statements, waits, and throws QueryError when one fails.
  std::vector<Rows> ask(const std::string& statements, const Deadline& deadline);
  /// The same for a query whose last statement yields the rows.
  Rows ask_one(const std::string& statements, const Deadline& deadline);

  /// Sends a statement whose answer nobody waits for: nothing else can be asked after it. Throws QueryError.
  void send(const std::string& statement, const Deadline& deadline);

  /// False once the connection has been given up: lost, or left in an unknown state by a time limit.
  [[nodiscard]] bool usable() const noexcept;
  [[nodiscard]] int server_version() const noexcept { return PQserverVersion(connection_.get()); }  ///< 150018
  [[nodiscard]] int backend_pid() const noexcept { return PQbackendPID(connection_.get()); }
  /// The process that listens on the socket: the postmaster. -1 when the kernel does not tell.
  [[nodiscard]] pid_t server_process() const noexcept;
  [[nodiscard]] bool in_transaction() const noexcept;

 private:
  friend class Exchange;
  CPtr<PGconn, PQfinish> connection_;
  const Cancellation* cancellation_;
  bool given_up_ = false;
};

/// A question to one session, asked together with others.
struct Question {
  Session* session = nullptr;
  std::string statements;
  Answer answer = {};
};

enum class Interruptible { yes, no };

/// Sends all questions at once and waits for all answers. A session that does not answer by the deadline is given up
/// (its connection is shut down, so that the server ends what it holds). Throws nothing for a server.
void ask_all(std::span<Question> questions, const Deadline& deadline, Interruptible interruptible = Interruptible::yes);

}  // namespace stillpoint::postgresql
