// SPDX-License-Identifier: LGPL-2.1-or-later
#include "hooks/engines/sqlite-database.hh"

#include "common/errors.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <span>
#include <string_view>

namespace stillpoint::sqlite {

namespace {

/// Between two tries for a lock: writers that take turns leave it only shortly.
constexpr useconds_t lock_pause = 500;
/// A database in a rollback journal is copied anew whenever somebody writes.
constexpr std::chrono::minutes copy_limit{10};
constexpr int pages_a_step = 1024;

using Statement = CPtr<sqlite3_stmt, sqlite3_finalize>;
using Backup = CPtr<sqlite3_backup, sqlite3_backup_finish>;
using Bytes = CPtr<unsigned char, sqlite3_free>;

int wait_for_lock(void* deadline, int /*tries*/) {
  if (static_cast<const Deadline*>(deadline)->passed()) return 0;
  ::usleep(lock_pause);
  return 1;
}

template <typename E>
[[noreturn]] void fail(sqlite3* connection, std::string_view what) {
  throw E(fmt::format("{}: {}", what, sqlite3_errmsg(connection)));
}

Connection open(const std::filesystem::path& path) {
  sqlite3* raw = nullptr;
  const int result = sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READWRITE, nullptr);
  Connection connection(raw);
  if (result != SQLITE_OK) fail<QuiesceError>(raw, "cannot be opened");
  return connection;
}

/// One that others have written.
Connection open_source(const std::filesystem::path& path) {
  Connection connection = open(path);
  sqlite3_db_config(connection.get(), SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(connection.get(), SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  // The last connection to a write-ahead log would write it back and unlink it, wherever it is closed.
  sqlite3_db_config(connection.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  return connection;
}

/// The first column of the first row. Throws QuiesceError.
std::string ask(sqlite3* connection, const char* sql) {
  sqlite3_stmt* raw = nullptr;
  if (sqlite3_prepare_v2(connection, sql, -1, &raw, nullptr) != SQLITE_OK) fail<QuiesceError>(connection, sql);
  const Statement statement(raw);
  const int result = sqlite3_step(raw);
  if (result == SQLITE_DONE) return {};
  if (result != SQLITE_ROW) fail<QuiesceError>(connection, sql);
  const std::span<const unsigned char> text(sqlite3_column_text(raw, 0),
                                            static_cast<std::size_t>(sqlite3_column_bytes(raw, 0)));
  return std::string(as_text(std::as_bytes(text)));
}

}  // namespace

Database::Database(const std::filesystem::path& path, bool for_dump, bool hold, bool read_inside,
                   const Deadline& deadline)
    : path_(path), writer_(open_source(path)) {
  sqlite3_busy_handler(writer_.get(), wait_for_lock, const_cast<Deadline*>(&deadline));
  wal_ = ask(writer_.get(), "PRAGMA journal_mode") == "wal";
  const int begun = hold ? sqlite3_exec(writer_.get(), "BEGIN IMMEDIATE", nullptr, nullptr, nullptr) : SQLITE_OK;
  if (begun == SQLITE_BUSY)
    skew_ = "a transaction did not end in time";
  else if (begun != SQLITE_OK)
    fail<QuiesceError>(writer_.get(), "its writers cannot be held");
  if (wal_ && for_dump) {
    reader_ = open_source(path);
    sqlite3_busy_handler(reader_.get(), wait_for_lock, const_cast<Deadline*>(&deadline));
    static_cast<void>(ask(reader_.get(), "BEGIN"));
    // The first read opens the database snapshot.
    static_cast<void>(ask(reader_.get(), "SELECT count(*) FROM sqlite_schema"));
    sqlite3_busy_handler(reader_.get(), nullptr, nullptr);
  }
  if (begun == SQLITE_OK) {
    pages_ = std::stoi(ask(writer_.get(), "PRAGMA page_count"));
    if (!wal_ && for_dump) read_now(read_inside);
  }
  sqlite3_busy_handler(writer_.get(), nullptr, nullptr);
}

/// Without a write-ahead log, a reader would hold the writers as long as it reads.
void Database::read_now(bool allowed) {
  if (!allowed || std::int64_t{pages_} * std::stoi(ask(writer_.get(), "PRAGMA page_size")) > most_bytes_inside) {
    skew_ = "it is too large to be read while its writers wait: in WAL mode it would be exact";
    return;
  }
  sqlite3_int64 size = 0;
  const Bytes bytes(sqlite3_serialize(writer_.get(), "main", &size, 0));
  if (!bytes) fail<QuiesceError>(writer_.get(), "cannot be read");
  read_.bytes = static_cast<std::size_t>(size);
  read_.file.reset(::memfd_create("dump", MFD_CLOEXEC));
  if (!read_.file) throw_errno<QuiesceError>("memfd_create");
  write_all(read_.file.get(), std::as_bytes(std::span(bytes.get(), read_.bytes)), "a dump");
}

Copy Database::copy() {
  // Whoever sends it has an offset of his own.
  if (read_.file) return {UniqueFd(::fcntl(read_.file.get(), F_DUPFD_CLOEXEC, 0)), read_.bytes};
  std::string name = "/var/tmp/stillpoint-sqlite-XXXXXX";
  Copy copy{UniqueFd(::mkstemp(name.data())), 0};
  if (!copy.file) throw_errno<CaptureError>("cannot make " + name);
  const Connection target = open(name);
  ::unlink(name.c_str());
  // A journal could not be made for a file without a name.
  static_cast<void>(ask(target.get(), "PRAGMA journal_mode=OFF"));
  static_cast<void>(ask(target.get(), "PRAGMA synchronous=OFF"));
  const Connection own = reader_ ? Connection() : open_source(path_);
  sqlite3* const source = reader_ ? reader_.get() : own.get();
  Backup backup(sqlite3_backup_init(target.get(), "main", source, "main"));
  if (!backup) fail<CaptureError>(target.get(), "cannot be copied");
  const Deadline deadline(copy_limit);
  for (;;) {
    const int result = sqlite3_backup_step(backup.get(), pages_a_step);
    if (result == SQLITE_DONE) break;
    if (!reader_ && deadline.passed()) throw CaptureError("it changes faster than it can be copied");
    if (result == SQLITE_BUSY || result == SQLITE_LOCKED)
      ::usleep(lock_pause);
    else if (result != SQLITE_OK)
      throw CaptureError(fmt::format("cannot be copied: {}", sqlite3_errstr(result)));
  }
  backup.reset();
  const off_t end = ::lseek(copy.file.get(), 0, SEEK_END);
  if (end < 0) throw_errno<CaptureError>("lseek");
  copy.bytes = static_cast<std::size_t>(end);
  return copy;
}

}  // namespace stillpoint::sqlite
