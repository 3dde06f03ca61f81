// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/engine.hh"
#include "agent/os-user.hh"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// What to run for a dump: never through a shell.
struct DumpTool {
  std::filesystem::path program;         ///< absolute
  std::vector<std::string> arguments;    ///< without the program's name
  std::vector<std::string> environment;  ///< "NAME=value", all of it: nothing is inherited
  std::optional<OsUser> user;            ///< whom to run as; ours when empty
};

/// Starts it in a process group of its own, in /, with standard input from /dev/null and no other descriptor of ours.
/// When the tool's standard error fills its pipe, what follows is lost rather than the tool blocked.
/// Throws CaptureError when it cannot be started.
[[nodiscard]] RunningDump run_dump_tool(const DumpTool& tool);

}  // namespace stillpoint
