// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/dump-filter.hh"

#include "common/errors.hh"
#include "common/file.hh"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace stillpoint {

namespace {

/// No header of a section is longer, and no statement that is looked at: a COPY names up to 1600 columns.
constexpr std::size_t longest_beginning = 256 << 10;
constexpr std::size_t longest_role = 512;
constexpr std::size_t most_roles = 10000;

/// Reads "`name`" at the start of `text`, in which a backtick is doubled.
std::optional<std::string> backticked(std::string_view text) {
  if (!text.starts_with('`')) return std::nullopt;
  std::string name;
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (text[i] != '`') {
      name += text[i];
    } else if (i + 1 < text.size() && text[i + 1] == '`') {
      name += '`';
      ++i;
    } else {
      return name;
    }
  }
  return std::nullopt;
}

/// A PostgreSQL identifier at the start of `text`, which loses it: as it is, or in double quotes.
std::optional<std::string> take_identifier(std::string_view& text) {
  if (!text.starts_with('"')) {
    const std::string name(text.substr(0, text.find_first_of(" ;,")));
    text.remove_prefix(name.size());
    return name.empty() ? std::nullopt : std::optional(name);
  }
  std::string name;
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (text[i] == '"' && (i + 1 == text.size() || text[i + 1] != '"')) {
      text.remove_prefix(i + 1);
      return name;
    }
    if (text[i] == '"') ++i;
    name += text[i];
  }
  return std::nullopt;
}

/// The tables that are wanted, and which of them were met.
class WantedTables {
 public:
  explicit WantedTables(std::vector<std::string> tables) : tables_(std::move(tables)), met_(tables_.size()) {}

  bool want(std::string_view schema, std::string_view table) {
    bool wanted = false;
    for (std::size_t i = 0; i < tables_.size(); ++i) {
      const bool is_it = tables_[i] == table || (!schema.empty() && tables_[i] == fmt::format("{}.{}", schema, table));
      met_[i] = met_[i] || is_it;
      wanted = wanted || is_it;
    }
    return wanted;
  }
  [[nodiscard]] std::vector<std::string> missing() const {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < tables_.size(); ++i)
      if (!met_[i]) names.push_back(tables_[i]);
    return names;
  }

 private:
  std::vector<std::string> tables_;
  std::vector<bool> met_;
};

/// The loader restricts the client itself, with a word that the dump's author does not know.
bool is_restriction(std::string_view line) {
  return line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ");
}

/// Whether a line of pg_dump's text belongs to the rows of a COPY: whatever they hold, it means nothing else.
class Rows {
 public:
  bool hold(std::string_view line) {
    if (inside_) {
      inside_ = line != "\\.";
      return true;
    }
    inside_ = line.starts_with("COPY ") && line.ends_with(" FROM stdin;");
    return false;
  }

 private:
  bool inside_ = false;
};

class PostgreSqlAll : public DumpFilter {
 public:
  using DumpFilter::DumpFilter;

 protected:
  bool passes(std::string_view line) override { return rows_.hold(line) || !is_restriction(line); }

 private:
  Rows rows_;
};

/// pg_dump heads each of its entries with "-- Name: orders; Type: TABLE; Schema: public; Owner: app".
class PostgreSqlTables : public DumpFilter {
 public:
  PostgreSqlTables(std::vector<std::string> tables, FilterSink sink)
      : DumpFilter(std::move(sink)), wanted_(std::move(tables)) {}

 protected:
  bool passes(std::string_view line) override {
    if (rows_.hold(line)) return passing_;
    // A function's text may have such a line, too, but not below a bare one.
    const bool in_header = std::exchange(after_dashes_, line == "--");
    for (const std::string_view start : {"-- Name: ", "-- Data for Name: "})
      if (in_header && line.starts_with(start)) passing_ = is_wanted(line.substr(start.size()));
    return passing_ && !is_restriction(line);
  }
  std::vector<std::string> missing() const override { return wanted_.missing(); }

 private:
  bool is_wanted(std::string_view header) {
    const auto field = [&header](std::string_view name) -> std::string_view {
      const std::size_t at = header.find(name);
      if (at == std::string_view::npos) return {};
      const std::string_view value = header.substr(at + name.size());
      return value.substr(0, value.find(';'));
    };
    const std::string_view type = field("; Type: ");
    const std::string_view schema = field("; Schema: ");
    std::string_view name = header.substr(0, header.find("; Type: "));
    // A constraint's name stands behind its table's.
    if (type == "CONSTRAINT") name = name.substr(0, name.rfind(' '));
    return (type == "TABLE" || type == "TABLE DATA" || type == "CONSTRAINT") && wanted_.want(schema, name);
  }

  WantedTables wanted_;
  bool passing_ = true;  ///< the settings come first
  bool after_dashes_ = false;
  Rows rows_;
};

/// No statement but a routine's has lines of its own that begin like these, and none of a routine's may.
bool chooses_database(std::string_view line) {
  return line.starts_with("CREATE DATABASE ") || line.starts_with("ALTER DATABASE ") || line.starts_with("USE `");
}

/// mariadb-dump heads a table's parts with "-- Table structure for table `orders`" below a line of two dashes.
class MySqlTables : public DumpFilter {
 public:
  MySqlTables(std::vector<std::string> tables, FilterSink sink)
      : DumpFilter(std::move(sink)), wanted_(std::move(tables)) {}

 protected:
  bool passes(std::string_view line) override {
    constexpr std::string_view structure = "-- Table structure for table ";
    constexpr std::string_view rows = "-- Dumping data for table ";
    // A trigger's text may have comments, too, but not below a bare one.
    const bool in_header = std::exchange(after_dashes_, line == "--");
    if (!in_header || !line.starts_with("-- ")) return passing_ && !chooses_database(line);
    const std::size_t skip = line.starts_with(structure) ? structure.size() : line.starts_with(rows) ? rows.size() : 0;
    const std::optional<std::string> name = skip > 0 ? backticked(line.substr(skip)) : std::nullopt;
    if (name)
      passing_ = wanted_.want("", *name);
    else if (line.find(" for ") != std::string_view::npos)
      passing_ = false;  // a view, routines, events
    return passing_;
  }
  std::vector<std::string> missing() const override { return wanted_.missing(); }

 private:
  WantedTables wanted_;
  bool passing_ = true;  ///< the settings come first
  bool after_dashes_ = false;
};

class MySqlDatabase : public DumpFilter {
 public:
  using DumpFilter::DumpFilter;

 protected:
  bool passes(std::string_view line) override { return !chooses_database(line); }
};

}  // namespace

void DumpFilter::write(std::span<const std::byte> bytes) {
  std::string_view text = as_text(bytes);
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view part = text.substr(0, end == std::string_view::npos ? text.size() : end + 1);
    text.remove_prefix(part.size());
    if (judged_) {
      if (passing_) sink_(as_bytes(part));
    } else {
      beginning_ += part;
    }
    const bool whole = part.ends_with('\n');
    if (!judged_ && (whole || beginning_.size() > longest_beginning)) judge();
    if (whole) judged_ = false;
  }
}

void DumpFilter::judge() {
  std::string_view line = beginning_;
  if (line.ends_with('\n')) line.remove_suffix(1);
  passing_ = passes(line);
  if (passing_) sink_(as_bytes(beginning_));
  beginning_.clear();
  judged_ = true;
}

void DumpFilter::finish() {
  if (!beginning_.empty()) judge();
  if (const std::vector<std::string> names = missing(); !names.empty())
    throw NotFound(fmt::format("the dump has no table {}", fmt::join(names, ", ")));
}

std::unique_ptr<DumpFilter> postgresql_filter(FilterSink sink) {
  return std::make_unique<PostgreSqlAll>(std::move(sink));
}

std::unique_ptr<DumpFilter> postgresql_table_filter(std::vector<std::string> tables, FilterSink sink) {
  return std::make_unique<PostgreSqlTables>(std::move(tables), std::move(sink));
}

std::unique_ptr<DumpFilter> mysql_table_filter(std::vector<std::string> tables, FilterSink sink) {
  return std::make_unique<MySqlTables>(std::move(tables), std::move(sink));
}

std::unique_ptr<DumpFilter> mysql_database_filter(FilterSink sink) {
  return std::make_unique<MySqlDatabase>(std::move(sink));
}

void RoleNames::write(std::span<const std::byte> bytes) {
  constexpr std::string_view start = "CREATE ROLE ";
  for (const char c : as_text(bytes)) {
    if (c != '\n') {
      if (line_.size() < longest_role) line_ += c;
      continue;
    }
    std::string_view line = line_;
    if (line.starts_with(start) && line.ends_with(';') && names_.size() < most_roles) {
      line.remove_prefix(start.size());
      if (std::optional<std::string> name = take_identifier(line); name && line == ";") names_.insert(std::move(*name));
    }
    line_.clear();
  }
}

}  // namespace stillpoint
