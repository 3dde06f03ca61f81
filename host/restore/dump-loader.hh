// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/program.hh"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A database server's own client, taking a text in. The text may be of a hostile guest: the client is run so that it
/// obeys no command of its own language in it (files, programs), only the server's. What the server lets the account
/// do, the text can do.
class DumpLoading {
 public:
  /// `first`: what it is told before the text. `last`: after it, by finish() alone: an end of the text that comes
  /// otherwise, for we were killed, must not count as one. `on_failure`: what to do when it fails, for the operator.
  DumpLoading(const Program& client, std::string_view first, std::string last, std::string on_failure,
              std::stop_token stop);
  DumpLoading(const DumpLoading&) = delete;
  DumpLoading& operator=(const DumpLoading&) = delete;
  ~DumpLoading() = default;

  /// Throws StorageError with what the client says when it ends; Interrupted.
  void write(std::span<const std::byte> bytes);
  /// Waits for the client to end well. Throws the same.
  void finish();

 private:
  [[nodiscard]] bool ended();
  [[noreturn]] void throw_ended();

  UniqueFd input_;
  std::optional<Intake> messages_;
  RunningProgram program_;
  std::string last_;
  std::string on_failure_;
  std::stop_token stop_;
};

/// A database that a dump goes into, on whatever server its client reaches.
class DumpDestination {
 public:
  virtual ~DumpDestination() = default;

  /// How much is in it: all tables, or those of these names. Throws Unreachable with what the client says.
  [[nodiscard]] virtual std::uint64_t tables(const std::vector<std::string>& names) = 0;
  /// The accounts that there are; empty where dumps do not name any.
  [[nodiscard]] virtual std::set<std::string> roles() { return {}; }
  /// All of it or nothing, where the server can do that.
  [[nodiscard]] virtual std::unique_ptr<DumpLoading> load(std::stop_token stop) = 0;
};

/// `target`: a database's name or a connection string, as psql takes it.
[[nodiscard]] std::unique_ptr<DumpDestination> postgresql_destination(std::string target);
/// `target`: a database's name; the server is the one that the client's own settings name.
[[nodiscard]] std::unique_ptr<DumpDestination> mysql_destination(std::string target);

}  // namespace stillpoint
