// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/deleter.hh"
#include "common/errors.hh"
#include "common/program.hh"

#include <fmt/format.h>
#include <glib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>

namespace stillpoint {

namespace fs = std::filesystem;

namespace {

bool is_leftover(std::string_view name) {
  static constexpr std::array<std::string_view, 8> endings{"~",        ".bak",     ".orig",     ".rpmnew",
                                                           ".rpmorig", ".rpmsave", ".dpkg-old", ".dpkg-new"};
  return name.starts_with('.') || name.ends_with(".dpkg-dist") || name.ends_with(".sample") ||
         std::any_of(endings.begin(), endings.end(), [&](std::string_view e) { return name.ends_with(e); });
}

/// Why a file must not be run as root: anybody else could have put it there.
std::string fault_of(const fs::path& path) {
  // A symbolic link is as safe as the place that it leads to.
  std::error_code unresolved;
  const fs::path target = fs::canonical(path, unresolved);
  if (unresolved) return errno_message("cannot be resolved", unresolved.value());
  for (const fs::path& each : {path.parent_path(), target.parent_path(), target}) {
    struct stat status {};
    if (::stat(each.c_str(), &status) != 0) return errno_message("cannot look at " + each.native(), errno);
    if (status.st_uid != ::geteuid()) return fmt::format("{} does not belong to root", each.native());
    if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0)
      return fmt::format("{} is writable by others than root", each.native());
  }
  return {};
}

}  // namespace

fs::path program_on_path(const std::string& name) {
  const CPtr<char, g_free> path(::g_find_program_in_path(name.c_str()));
  return path ? path.get() : fs::path();
}

std::vector<std::string> own_environment() {
  std::vector<std::string> variables;
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable)
    variables.emplace_back(*variable);
  return variables;
}

std::vector<FoundProgram> find_programs(const std::vector<fs::path>& directories) {
  std::vector<FoundProgram> programs;
  for (const fs::path& directory : directories) {
    std::error_code error;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
      const fs::path path = entry->path();
      struct stat status {};
      if (is_leftover(path.filename().native()) || ::stat(path.c_str(), &status) != 0) continue;
      if (!S_ISREG(status.st_mode) || (status.st_mode & S_IXUSR) == 0) continue;
      programs.push_back({path, fault_of(path)});
    }
    // A program that cannot be seen must not be skipped.
    if (error && error != std::errc::no_such_file_or_directory)
      programs.push_back({directory / "", errno_message("cannot be read", error.value())});
  }
  std::sort(programs.begin(), programs.end(), [](const FoundProgram& a, const FoundProgram& b) {
    return std::pair(a.path.filename(), a.path) < std::pair(b.path.filename(), b.path);
  });
  return programs;
}

}  // namespace stillpoint
