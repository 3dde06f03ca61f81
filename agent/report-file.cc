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
constexpr std::size_t most_failure = 4096;

bool fits(const Report& report) {
  return dump_json(to_json(report)).size() <= most_bytes;
}

}  // namespace

Report fitting(Report report) {
  if (report.failure.size() > most_failure) report.failure.resize(most_failure);
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
