// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/report-file.hh"

#include "common/errors.hh"
#include "common/file.hh"

#include <fmt/format.h>

namespace stillpoint {

void write_report(const std::filesystem::path& path, const Report& report) {
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  if (error) throw_storage_errno(fmt::format("cannot make {}", path.parent_path().native()), error.value());
  replace_file(path, dump_json(to_json(report), 1) + "\n", 0600);
}

}  // namespace stillpoint
