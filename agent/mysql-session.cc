// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/mysql-session.hh"

#include <cppconn/connection.h>
#include <cppconn/driver.h>
#include <cppconn/exception.h>
#include <cppconn/resultset.h>
#include <cppconn/resultset_metadata.h>
#include <cppconn/statement.h>
#include <fmt/format.h>
#include <mysql_driver.h>

#include <mutex>

namespace stillpoint::mysql {
namespace {

/// How long the library itself waits for an answer, in seconds. The relay's limits come first; this is for a relay that
/// is stuck.
constexpr int library_timeout = 120;

std::unique_ptr<sql::Connection> connect(const std::string& socket, const Account& account) {
  // The driver is made at the first call, without a lock.
  static std::mutex mutex;
  sql::Driver* driver = nullptr;
  {
    const std::lock_guard lock(mutex);
    driver = sql::mysql::get_driver_instance();
  }
  sql::ConnectOptionsMap options;
  options["hostName"] = sql::SQLString("unix://" + socket);
  options["userName"] = sql::SQLString(account.user);
  options["password"] = sql::SQLString(account.password);
  options["OPT_CONNECT_TIMEOUT"] = library_timeout;
  options["OPT_READ_TIMEOUT"] = library_timeout;
  options["OPT_WRITE_TIMEOUT"] = library_timeout;
  options["OPT_CHARSET_NAME"] = sql::SQLString("utf8mb4");
  return std::unique_ptr<sql::Connection>(driver->connect(options));
}

}  // namespace

struct Session::Connection {
  std::unique_ptr<sql::Connection> connection;
  std::unique_ptr<sql::Statement> statement;
};

template <typename Call>
void Session::bounded(const Deadline& deadline, const Call& call) {
  if (deadline.passed()) throw SessionError("no time is left", 0);
  relay_.limit(link_, deadline);
  try {
    call();
    relay_.unlimit(link_);
  } catch (const sql::SQLException& error) {
    relay_.unlimit(link_);
    const std::string cut = relay_.failure(link_);
    throw SessionError(cut.empty() ? std::string(error.what()) : cut, error.getErrorCode());
  }
}

Session::Session(Relay& relay, const Account& account, const Deadline& deadline)
    : relay_(relay), link_(relay.open_plain()), connection_(std::make_unique<Connection>()) {
  try {
    bounded(deadline, [&] {
      connection_->connection = connect(relay_.socket_of(link_), account);
      connection_->statement.reset(connection_->connection->createStatement());
    });
  } catch (...) {
    relay_.close(link_, "the session could not be opened");
    throw;
  }
}

Session::~Session() {
  try {
    // Closing says good-bye and does not wait, but never trust a library with that.
    relay_.limit(link_, Deadline(std::chrono::milliseconds(1000)));
    connection_.reset();
    relay_.close(link_, "");
  } catch (const std::exception&) {
    // The relay closes what is left.
  }
}

void Session::execute(const std::string& sql, const Deadline& deadline) {
  bounded(deadline, [&] { static_cast<void>(connection_->statement->execute(sql)); });
}

std::vector<Session::Row> Session::rows(const std::string& sql, const Deadline& deadline) {
  std::vector<Row> result;
  bounded(deadline, [&] {
    const std::unique_ptr<sql::ResultSet> answer(connection_->statement->executeQuery(sql));
    const unsigned columns = answer->getMetaData()->getColumnCount();
    while (answer->next()) {
      Row row;
      row.reserve(columns);
      for (unsigned column = 1; column <= columns; ++column) {
        const sql::SQLString text = answer->getString(column);
        row.emplace_back(text.c_str(), text.length());
      }
      result.push_back(std::move(row));
    }
  });
  return result;
}

std::string Session::value(const std::string& sql, const Deadline& deadline) {
  const std::vector<Row> result = rows(sql, deadline);
  return result.empty() || result[0].empty() ? std::string() : result[0][0];
}

bool Session::alive() const {
  return relay_.state(link_) == LinkState::passing;
}

void Session::abandon() noexcept {
  try {
    relay_.close(link_, "the session was given up");
  } catch (const std::exception&) {
    // Only memory can be missing; the server's wait_timeout is the last resort.
  }
}

std::string quote_identifier(std::string_view name) {
  std::string result = "`";
  for (const char c : name)
    result.append(c == '`' ? 2 : 1, c);
  return result + '`';
}

}  // namespace stillpoint::mysql
