// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// Where the text of a dump goes.
using FilterSink = std::function<void(std::span<const std::byte>)>;

/// Lets through of a dump's text only what is wanted, line by line; holds one line's beginning in memory at most, and
/// passes on the rest of a long one as it comes.
class DumpFilter {
 public:
  explicit DumpFilter(FilterSink sink) : sink_(std::move(sink)) {}
  DumpFilter(const DumpFilter&) = delete;
  DumpFilter& operator=(const DumpFilter&) = delete;
  virtual ~DumpFilter() = default;

  void write(std::span<const std::byte> bytes);
  /// After the last byte. Throws NotFound when a table that is wanted was not in it.
  void finish();

 protected:
  /// Whether the line goes through. `beginning`: of a line, without its line feed; of a long one, so much as matters.
  [[nodiscard]] virtual bool passes(std::string_view beginning) = 0;
  /// Those that are not in the dump.
  [[nodiscard]] virtual std::vector<std::string> missing() const { return {}; }

 private:
  void judge();

  FilterSink sink_;
  std::string beginning_;
  bool judged_ = false;  ///< the line's beginning was, and the rest of it follows
  bool passing_ = false;
};

/// Of pg_dump's plain format: all but the restriction of the client, which is the loader's to make.
[[nodiscard]] std::unique_ptr<DumpFilter> postgresql_filter(FilterSink sink);
/// Of it: the settings at its beginning, and the definition, the rows and the keys of these tables
/// ("orders" of whichever schema, or "public.orders").
[[nodiscard]] std::unique_ptr<DumpFilter> postgresql_table_filter(std::vector<std::string> tables, FilterSink sink);
/// Of mariadb-dump's or mysqldump's: the settings, and the definition, rows and triggers of these tables.
[[nodiscard]] std::unique_ptr<DumpFilter> mysql_table_filter(std::vector<std::string> tables, FilterSink sink);
/// Of mariadb-dump's or mysqldump's: all but the statements that choose the database, so that it goes into another one.
[[nodiscard]] std::unique_ptr<DumpFilter> mysql_database_filter(FilterSink sink);
/// The roles that pg_dumpall's globals make, by their names alone: what they may do is the server's to say, not the
/// guest's. At most so many as a server may reasonably have.
class RoleNames {
 public:
  void write(std::span<const std::byte> bytes);
  [[nodiscard]] const std::set<std::string>& names() const noexcept { return names_; }

 private:
  std::string line_;
  std::set<std::string> names_;
};

}  // namespace stillpoint
