// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/rados-entry.hh"

#include <fmt/format.h>

#include <charconv>
#include <chrono>

namespace stillpoint {

namespace {

constexpr std::string_view remnant_start = "tmp/";
constexpr std::uint64_t most_object_bytes = std::uint64_t{1} << 40;
constexpr std::uint64_t least_piece_bytes = 64 << 10;
constexpr std::uint64_t most_piece_bytes = std::uint64_t{1} << 30;
constexpr std::uint64_t latest_microsecond = 253402300799000000;  // the year 9999

/// Takes a number, and the space behind it where more is to follow.
std::optional<std::uint64_t> take_number(std::string_view& text, std::uint64_t most, bool last) {
  std::uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, failure] = std::from_chars(text.data(), end, value);
  if (failure != std::errc() || value > most || (last ? rest != end : rest == end || *rest != ' ')) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(rest - text.data()) + (last ? 0 : 1));
  return value;
}

std::string escaped(std::string_view folder) {
  std::string text;
  for (const char byte : folder)
    text += byte == '.' ? "%2e" : byte == '%' ? "%25" : std::string(1, byte);
  return text;
}

std::string unescaped(std::string_view text) {
  std::string folder;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const bool dot = text.substr(at, 3) == "%2e";
    folder += dot ? '.' : text[at];
    if (text[at] == '%') at += 2;
  }
  return folder;
}

}  // namespace

std::string to_string(const RadosEntry& entry) {
  return fmt::format("{} {} {} {}", entry.id, entry.size, entry.piece_bytes, entry.modified.time_since_epoch().count());
}

std::optional<RadosEntry> parse_rados_entry(std::string_view text) {
  constexpr std::size_t id_digits = 32;
  RadosEntry entry;
  entry.id = text.substr(0, id_digits);
  if (!is_id(entry.id) || text.size() <= id_digits || text[id_digits] != ' ') return std::nullopt;
  text.remove_prefix(id_digits + 1);
  const auto size = take_number(text, most_object_bytes, false);
  const auto piece = size ? take_number(text, most_piece_bytes, false) : std::nullopt;
  const auto modified = piece ? take_number(text, latest_microsecond, true) : std::nullopt;
  if (!modified || (*piece != 0 && *piece < least_piece_bytes)) return std::nullopt;
  entry.size = *size;
  entry.piece_bytes = *piece;
  entry.modified = WallTime(std::chrono::microseconds(*modified));
  return entry;
}

std::string to_string(const RadosNote& note) {
  const auto since = note.since.time_since_epoch().count();
  return note.pieces ? fmt::format("{} {}", since, *note.pieces) : std::to_string(since);
}

std::optional<RadosNote> parse_rados_note(std::string_view text) {
  const bool counted = text.find(' ') != std::string_view::npos;
  const auto since = take_number(text, latest_microsecond, !counted);
  const auto pieces = since && counted ? take_number(text, most_object_bytes / least_piece_bytes, true) : std::nullopt;
  if (!since || (counted && !pieces)) return std::nullopt;
  return RadosNote{WallTime(std::chrono::microseconds(*since)), pieces};
}

std::pair<std::string, std::string> split_object_name(const std::string& name) {
  const std::size_t slash = name.rfind('/');
  if (slash == std::string::npos) return {"", name};
  return {name.substr(0, slash), name.substr(slash + 1)};
}

std::string rados_key::of(std::string_view kind, std::string_view name) {
  return fmt::format("{}{}", kind, name);
}

std::string to_string(const RadosRemnant& remnant) {
  return fmt::format("{}{}{}{}@{}", remnant_start, remnant.lease, remnant.lease.empty() ? "" : ".", remnant.id,
                     escaped(remnant.folder));
}

std::optional<RadosRemnant> parse_rados_remnant(std::string_view name) {
  if (!name.starts_with(remnant_start)) return std::nullopt;
  name.remove_prefix(remnant_start.size());
  const std::size_t at = name.find('@');
  if (at == std::string_view::npos) return std::nullopt;
  return remnant_of(unescaped(name.substr(at + 1)), rados_key::of(rados_key::unfinished, name.substr(0, at)));
}

std::optional<RadosRemnant> remnant_of(const std::string& folder, std::string_view key) {
  key.remove_prefix(rados_key::unfinished.size());
  const std::size_t dot = key.find('.');
  RadosRemnant remnant{folder, {}, std::string(key.substr(dot == std::string_view::npos ? 0 : dot + 1))};
  if (dot != std::string_view::npos) remnant.lease = key.substr(0, dot);
  if (!is_id(remnant.id) || (dot != std::string_view::npos && !is_id(remnant.lease))) return std::nullopt;
  return remnant;
}

}  // namespace stillpoint
