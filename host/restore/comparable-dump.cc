// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/comparable-dump.hh"

#include <algorithm>

namespace stillpoint {

namespace {

/// Longer than any line that something is taken out of, but for the comment of a table, which follows it.
constexpr std::size_t longest_special = 4096;

bool is_word(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  });
}

bool tells_nothing(std::string_view line) {
  if (line.starts_with("SELECT pg_catalog.setval(")) return line.ends_with(");");
  for (const std::string_view comment : {"-- Dumped from database version ", "-- Dumped by pg_dump version ",
                                         "-- MariaDB dump ", "-- MySQL dump ", "-- Server version\t", "-- Host: "})
    if (line.starts_with(comment)) return true;
  for (const std::string_view command : {"\\restrict ", "\\unrestrict "})
    if (line.starts_with(command)) return is_word(line.substr(command.size()));
  return false;
}

/// Of the end of a CREATE TABLE: ") ENGINE=InnoDB AUTO_INCREMENT=5 DEFAULT CHARSET=utf8mb4".
void drop_auto_increment(std::string& line) {
  constexpr std::string_view option = " AUTO_INCREMENT=";
  constexpr std::string_view start = ") ENGINE=";
  if (!line.starts_with(start)) return;
  const std::size_t engine_end = line.find(' ', start.size());
  if (engine_end == std::string::npos || line.compare(engine_end, option.size(), option) != 0) return;
  std::size_t end = engine_end + option.size();
  while (end < line.size() && line[end] >= '0' && line[end] <= '9')
    ++end;
  line.erase(engine_end, end - engine_end);
}

}  // namespace

void ComparableDump::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const std::size_t newline = bytes.find('\n');
    const std::string_view part = bytes.substr(0, newline);
    if (through_) {
      if (!part.empty()) take_(part);
    } else {
      const std::size_t room = longest_special - line_.size();
      line_ += part.substr(0, room);
      if (part.size() > room) {
        drop_auto_increment(line_);
        take_(line_);
        take_(part.substr(room));
        line_.clear();
        through_ = true;
      }
    }
    if (newline == std::string_view::npos) return;
    end_line(bytes.substr(newline, 1));
    bytes.remove_prefix(newline + 1);
  }
}

void ComparableDump::end() {
  end_line({});
}

void ComparableDump::end_line(std::string_view newline) {
  if (!through_ && !tells_nothing(line_)) {
    drop_auto_increment(line_);
    if (!line_.empty()) take_(line_);
  }
  if (!newline.empty()) take_(newline);
  line_.clear();
  through_ = false;
}

}  // namespace stillpoint
