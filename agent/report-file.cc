// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/report-file.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "common/frame.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

void write_report(const std::filesystem::path& path, const Report& report) {
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  if (error) throw_storage_errno(fmt::format("cannot make {}", path.parent_path().native()), error.value());
  replace_file(path, dump_json(to_json(report), 1) + "\n", 0600);
}

namespace {

/// Leaves room for the envelope.
constexpr std::size_t most_bytes = max_control_bytes - 4096;
/// As the host has it: a longer text would cost it the whole report.
constexpr std::size_t longest_text = 4096;

/// As it will be written, where every byte that is no UTF-8 takes three.
std::string shortened(const std::string& text) {
  std::string result = Json::parse(dump_json(text)).get<std::string>();
  if (result.size() <= longest_text) return result;
  std::size_t end = longest_text;
  while ((static_cast<unsigned char>(result[end]) & 0xC0U) == 0x80U)
    --end;
  result.resize(end);
  return result;
}

bool fits(const Report& report) {
  return dump_json(to_json(report)).size() <= most_bytes;
}

}  // namespace

Report fitting(Report report) {
  report.failure = shortened(report.failure);
  for (DatabaseReport& database : report.databases)
    database.reason = shortened(database.reason);
  while (!fits(report)) {
    const auto longest =
        std::max_element(report.databases.begin(), report.databases.end(),
                         [](const auto& a, const auto& b) { return a.sequences.size() < b.sequences.size(); });
    if (longest == report.databases.end() || longest->sequences.empty()) return report;
    longest->not_covered.push_back({"sequence-value", "", longest->sequences.size()});
    longest->sequences.clear();
  }
  return report;
}

}  // namespace stillpoint
