// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/postgresql-text.hh"

#include "common/protocol.hh"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

namespace stillpoint::postgresql {

namespace {

/// All numbers of a line, in order.
std::vector<std::uint64_t> numbers(std::string_view line) {
  std::vector<std::uint64_t> result;
  const char* at = line.data();
  const char* const end = at + line.size();
  while (at != end) {
    std::uint64_t number = 0;
    const auto [next, error] = std::from_chars(at, end, number);
    if (error == std::errc()) result.push_back(number);
    at = error == std::errc::invalid_argument ? at + 1 : next;
  }
  return result;
}

bool all_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool is_version(std::string_view text) {
  const std::size_t dot = text.find('.');
  if (dot == std::string_view::npos) return all_digits(text);
  return all_digits(text.substr(0, dot)) && all_digits(text.substr(dot + 1));
}

/// "15-main" of ".../15/main", empty for another form.
std::string version_and_name(std::string_view path) {
  while (!path.empty() && path.back() == '/')
    path.remove_suffix(1);
  const std::size_t slash = path.rfind('/');
  if (slash == std::string_view::npos || slash + 1 == path.size()) return {};
  const std::string_view name = path.substr(slash + 1);
  std::string_view version = path.substr(0, slash);
  if (const std::size_t before = version.rfind('/'); before != std::string_view::npos)
    version.remove_prefix(before + 1);
  return is_version(version) ? fmt::format("{}-{}", version, protocol::dump_name_part(name)) : std::string();
}

}  // namespace

std::vector<DeadlockEdge> parse_deadlock(std::string_view detail) {
  std::vector<DeadlockEdge> edges;
  while (!detail.empty()) {
    const std::string_view line = detail.substr(0, detail.find('\n'));
    detail.remove_prefix(std::min(detail.size(), line.size() + 1));
    // process, relation, database, process. A tuple, a transaction or an advisory lock shows other counts or words.
    const std::vector<std::uint64_t> n = numbers(line);
    if (n.size() < 3 || n.front() > INT32_MAX || n.back() > INT32_MAX) continue;
    const bool relation = n.size() == 4 && n[1] <= UINT32_MAX && line.find("Lock on ") != std::string_view::npos &&
                          line.find("transaction") == std::string_view::npos;
    edges.push_back({static_cast<int>(n.front()), relation ? static_cast<Oid>(n[1]) : 0, static_cast<int>(n.back())});
  }
  return edges;
}

std::string conninfo_value(std::string_view text) {
  std::string value = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') value += '\\';
    value += c;
  }
  return value + "'";
}

std::string instance_name(std::string_view cluster_name, std::string_view data_directory, std::string_view port) {
  std::string name = version_and_name(cluster_name);
  if (name.empty() && !cluster_name.empty() && cluster_name.find('/') == std::string_view::npos)
    name = protocol::dump_name_part(cluster_name);
  if (name.empty() && data_directory.starts_with("/var/lib/postgresql/")) name = version_and_name(data_directory);
  if (name.empty()) name = fmt::format("port-{}", port);
  return name;
}

std::string distinct_name(std::string name, std::string_view port, std::set<std::string>& taken) {
  if (taken.contains(name)) name += fmt::format("-port-{}", port);
  std::string distinct = name;
  for (int number = 2; !taken.insert(distinct).second; ++number)
    distinct = fmt::format("{}-{}", name, number);
  return distinct;
}

std::string major_version(int server_version) {
  if (server_version >= 100000) return fmt::format("{}", server_version / 10000);
  return fmt::format("{}.{}", server_version / 10000, server_version / 100 % 100);
}

std::string_view socket_port(std::string_view file_name) {
  constexpr std::string_view prefix = ".s.PGSQL.";
  if (!file_name.starts_with(prefix)) return {};
  file_name.remove_prefix(prefix.size());
  return file_name.size() <= 5 && all_digits(file_name) ? file_name : std::string_view();
}

}  // namespace stillpoint::postgresql
