// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/deleter.hh"
#include "common/file.hh"

#include <sqlite3.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace stillpoint::sqlite {

/// What is read of a database while its writers wait: a tenth of a second or less.
inline constexpr std::int64_t most_bytes_inside = std::int64_t{32} << 20;

using Connection = CPtr<sqlite3, sqlite3_close_v2>;

/// A dump: the bytes of a database, in a file without a name.
struct Copy {
  UniqueFd file;
  std::size_t bytes = 0;
};

/// One database, with its writers held. Every failure is a QuiesceError or a CaptureError.
class Database {
 public:
  /// Holds the writers, within the deadline, and opens the database snapshot where there is to be a dump. With `hold`
  /// false, a test's, they are not held. `read_inside`: it may be read meanwhile, where it has to be.
  Database(const std::filesystem::path& path, bool for_dump, bool hold, bool read_inside, const Deadline& deadline);

  /// Why the dump is not of the instant; empty when it is.
  [[nodiscard]] const std::string& skew() const noexcept { return skew_; }
  [[nodiscard]] bool is_wal() const noexcept { return wal_; }
  [[nodiscard]] int pages() const noexcept { return pages_; }

  /// Lets the writers go; the database snapshot stays. Idempotent.
  void release() noexcept { writer_.reset(); }

  /// After the release.
  [[nodiscard]] Copy copy();

 private:
  void read_now(bool allowed);

  std::filesystem::path path_;
  Connection writer_;  ///< has the write lock
  Connection reader_;  ///< in a read transaction, in WAL mode
  Copy read_;          ///< inside the barrier
  std::string skew_;
  bool wal_ = false;
  int pages_ = 0;
};

}  // namespace stillpoint::sqlite
