// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/mysql-relay.hh"
#include "common/clock.hh"
#include "common/errors.hh"

#include <memory>
#include <string>
#include <vector>

namespace stillpoint::mysql {

/// Who we are to the server.
struct Account {
  std::string user;
  std::string password;  ///< empty for unix_socket authentication
};

/// The server, or the way to it, refused a statement.
class SessionError : public QuiesceError {
 public:
  SessionError(const std::string& message, int code) : QuiesceError(message), code_(code) {}
  /// The server's or the client library's error number.
  [[nodiscard]] int code() const noexcept { return code_; }

 private:
  int code_;
};

/// A session of our own with the server, through the relay: every call ends by its deadline, whatever the server does;
/// after that the session is lost.
class Session {
 public:
  using Row = std::vector<std::string>;  ///< NULL reads as ""

  /// Connects. Throws SessionError.
  Session(Relay& relay, const Account& account, const Deadline& deadline);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  /// Says good-bye to the server, without waiting for it.
  ~Session();

  /// Throws SessionError.
  void execute(const std::string& sql, const Deadline& deadline);
  /// The whole result. Throws SessionError.
  [[nodiscard]] std::vector<Row> rows(const std::string& sql, const Deadline& deadline);
  /// The first column of the first row; "" when there is none. Throws SessionError.
  [[nodiscard]] std::string value(const std::string& sql, const Deadline& deadline);

  /// Whether the connection still stands.
  [[nodiscard]] bool alive() const;

  /// Cuts the connection: the server ends the session, and lets go of what it holds.
  void abandon() noexcept;

 private:
  struct Connection;
  /// Bounds a call, and says what went wrong in it.
  template <typename Call>
  void bounded(const Deadline& deadline, const Call& call);

  Relay& relay_;
  Relay::LinkId link_;
  std::unique_ptr<Connection> connection_;
};

/// `name` as an identifier in a statement.
[[nodiscard]] std::string quote_identifier(std::string_view name);

}  // namespace stillpoint::mysql
