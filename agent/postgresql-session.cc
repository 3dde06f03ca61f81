// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql-session.hh"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>

namespace stillpoint::postgresql {

namespace {

/// Longest message that is passed on.
constexpr std::size_t max_message = 1000;

std::string one_line(const char* text) {
  std::string line(text == nullptr ? "" : text);
  while (!line.empty() && (line.back() == '\n' || line.back() == ' '))
    line.pop_back();
  for (char& c : line)
    if (c == '\n' || c == '\r' || c == '\t') c = ' ';
  if (line.size() > max_message) line.resize(max_message);
  return line;
}

void ignore_notice(void* /*context*/, const PGresult* /*notice*/) {}

bool poll_readable(int fd) {
  pollfd poll_fd{fd, POLLIN, 0};
  return ::poll(&poll_fd, 1, 0) > 0;
}

/// Waits for `fd` or the cancellation. Empty when `fd` is ready.
std::string wait_for(int fd, short events, const Cancellation& cancellation, const Deadline& deadline) {
  for (;;) {
    std::array<pollfd, 2> fds{{{fd, events, 0}, {cancellation.fd(), POLLIN, 0}}};
    const int ready = ::poll(fds.data(), fds.size(), deadline.poll_timeout());
    if (ready < 0 && errno != EINTR) return errno_message("cannot wait for the server", errno);
    if (fds[1].revents != 0) return "cancelled";
    if (fds[0].revents != 0) return {};
    if (deadline.passed()) return "the server does not answer in time";
  }
}

Failure failure_of(const PGresult* result) {
  const auto field = [result](int code) {
    const char* text = PQresultErrorField(result, code);
    return std::string(text == nullptr ? "" : text);
  };
  std::string message = one_line(field(PG_DIAG_MESSAGE_PRIMARY).c_str());
  if (message.empty()) message = one_line(PQresultErrorMessage(result));
  return {field(PG_DIAG_SQLSTATE), message, field(PG_DIAG_MESSAGE_DETAIL)};
}

}  // namespace

Cancellation::Cancellation() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!event_) throw_errno("cannot make an eventfd");
}

void Cancellation::cancel() noexcept {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(event_.get(), &one, sizeof one));
}

void Cancellation::reset() noexcept {
  std::uint64_t count = 0;
  static_cast<void>(!::read(event_.get(), &count, sizeof count));
}

std::string_view Rows::text(int row, int column) const {
  if (row < 0 || row >= size() || column < 0 || column >= PQnfields(result_.get()))
    throw QuiesceError("the server's answer has another shape than expected");
  return {PQgetvalue(result_.get(), row, column), static_cast<std::size_t>(PQgetlength(result_.get(), row, column))};
}

std::int64_t Rows::number(int row, int column) const {
  const std::string_view digits = text(row, column);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size())
    throw QuiesceError(fmt::format("the server answers '{}' where a number was expected", digits));
  return value;
}

Session::Session(const Server& server, const std::string& database, const Cancellation& cancellation,
                 const Deadline& deadline)
    : cancellation_(&cancellation) {
  // The server sees the uid at connect(2), which happens somewhere below PQconnectPoll().
  const EffectiveUser as_user(server.os_user);
  // client_encoding: names are bytes to us. passfile: no file is read.
  const std::array<const char*, 10> keywords{
      "host",     "port",    "user",       "dbname", "client_encoding", "application_name",
      "passfile", "sslmode", "gssencmode", nullptr};
  const std::array<const char*, 10> values{server.socket_directory.c_str(),
                                           server.port.c_str(),
                                           server.user.c_str(),
                                           database.c_str(),
                                           "SQL_ASCII",
                                           "stillpoint",
                                           "/nonexistent",
                                           "disable",
                                           "disable",
                                           nullptr};
  connection_.reset(PQconnectStartParams(keywords.data(), values.data(), 0));
  if (!connection_) throw std::bad_alloc();
  PQsetNoticeReceiver(connection_.get(), ignore_notice, nullptr);
  if (PQstatus(connection_.get()) == CONNECTION_BAD)
    throw QueryError({{}, one_line(PQerrorMessage(connection_.get())), {}});
  PostgresPollingStatusType status = PGRES_POLLING_WRITING;
  while (status != PGRES_POLLING_OK) {
    if (status == PGRES_POLLING_FAILED) throw QueryError({{}, one_line(PQerrorMessage(connection_.get())), {}});
    const std::string problem = wait_for(PQsocket(connection_.get()),
                                         status == PGRES_POLLING_READING ? POLLIN : POLLOUT, cancellation, deadline);
    if (!problem.empty()) throw QueryError({{}, problem, {}});
    status = PQconnectPoll(connection_.get());
  }
  PQsetnonblocking(connection_.get(), 1);
}

Session::~Session() {
  // A server that was given up must learn it even when PQfinish() cannot say good-bye.
  if (connection_ && given_up_) ::shutdown(PQsocket(connection_.get()), SHUT_RDWR);
}

bool Session::usable() const noexcept {
  return connection_ && !given_up_ && PQstatus(connection_.get()) == CONNECTION_OK;
}

pid_t Session::server_process() const noexcept {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(PQsocket(connection_.get()), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : -1;
}

bool Session::in_transaction() const noexcept {
  return usable() && PQtransactionStatus(connection_.get()) == PQTRANS_INTRANS;
}

std::vector<Rows> Session::ask(const std::string& statements, const Deadline& deadline) {
  Question question{this, statements};
  ask_all({&question, 1}, deadline);
  if (question.answer.failure) throw QueryError(*question.answer.failure);
  return std::move(question.answer.rows);
}

Rows Session::ask_one(const std::string& statements, const Deadline& deadline) {
  std::vector<Rows> rows = ask(statements, deadline);
  if (rows.empty()) throw QuiesceError("the server answers without rows");
  return std::move(rows.back());
}

void Session::send(const std::string& statement, const Deadline& deadline) {
  if (PQsendQuery(connection_.get(), statement.c_str()) != 1)
    throw QueryError({{}, one_line(PQerrorMessage(connection_.get())), {}});
  for (;;) {
    const int left = PQflush(connection_.get());
    if (left == 0) return;
    const std::string problem = left < 0 ? one_line(PQerrorMessage(connection_.get()))
                                         : wait_for(PQsocket(connection_.get()), POLLOUT, *cancellation_, deadline);
    if (!problem.empty()) throw QueryError({{}, problem, {}});
  }
}

/// One question under way.
class Exchange {
 public:
  explicit Exchange(Question& question) : question_(question) {
    if (!question.session->usable())
      give_up("the connection is lost");
    else if (PQsendQuery(connection(), question.statements.c_str()) != 1)
      give_up(PQerrorMessage(connection()));
    else
      flush();
  }

  [[nodiscard]] bool done() const noexcept { return done_; }
  [[nodiscard]] pollfd wanted() const noexcept {
    return {PQsocket(connection()), static_cast<short>(flushed_ ? POLLIN : POLLIN | POLLOUT), 0};
  }
  [[nodiscard]] int cancellation() const noexcept { return question_.session->cancellation_->fd(); }

  void advance() {
    if (PQconsumeInput(connection()) != 1) return give_up(PQerrorMessage(connection()));
    flush();
    while (!done_ && PQisBusy(connection()) == 0)
      take_result();
  }

  void give_up(const char* why) {
    // Not over an error that the server has told.
    if (!question_.answer.failure) question_.answer.failure = Failure{{}, one_line(why), {}};
    question_.session->given_up_ = true;
    if (const int fd = PQsocket(connection()); fd >= 0) ::shutdown(fd, SHUT_RDWR);
    done_ = true;
  }

 private:
  [[nodiscard]] PGconn* connection() const noexcept { return question_.session->connection_.get(); }

  void flush() {
    const int left = PQflush(connection());
    if (left < 0) return give_up(PQerrorMessage(connection()));
    flushed_ = left == 0;
  }

  void take_result() {
    PGresult* result = PQgetResult(connection());
    if (result == nullptr) {
      done_ = true;
      return;
    }
    Rows rows(result);
    switch (PQresultStatus(result)) {
      case PGRES_TUPLES_OK:
        question_.answer.rows.push_back(std::move(rows));
        break;
      case PGRES_COMMAND_OK:
      case PGRES_EMPTY_QUERY:
        break;
      default:
        if (!question_.answer.failure) question_.answer.failure = failure_of(result);
        if (PQstatus(connection()) == CONNECTION_BAD) give_up("the connection is lost");
        break;
    }
  }

  Question& question_;
  bool flushed_ = false;
  bool done_ = false;
};

void ask_all(std::span<Question> questions, const Deadline& deadline, Interruptible interruptible) {
  std::vector<Exchange> exchanges;
  exchanges.reserve(questions.size());
  for (Question& question : questions)
    exchanges.emplace_back(question);
  std::vector<pollfd> fds;
  std::vector<Exchange*> waiting;
  for (;;) {
    fds.clear();
    waiting.clear();
    for (Exchange& exchange : exchanges) {
      if (exchange.done()) continue;
      fds.push_back(exchange.wanted());
      waiting.push_back(&exchange);
    }
    if (waiting.empty()) return;
    const int cancelled = interruptible == Interruptible::yes ? waiting.front()->cancellation() : -1;
    fds.push_back({cancelled, POLLIN, 0});
    ::poll(fds.data(), fds.size(), deadline.poll_timeout());
    const bool stop = cancelled >= 0 && poll_readable(cancelled);
    for (std::size_t i = 0; i < waiting.size(); ++i) {
      if (fds[i].revents != 0) waiting[i]->advance();
      if (waiting[i]->done()) continue;
      if (stop) waiting[i]->give_up("cancelled");
      if (deadline.passed()) waiting[i]->give_up("the server does not answer in time");
    }
  }
}

}  // namespace stillpoint::postgresql
