// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/engine.hh"
#include "common/program.hh"

namespace stillpoint {

/// Starts a program whose standard output is a dump, as RunningProgram does. When its standard error fills its pipe,
/// what follows is lost rather than the tool blocked. Throws CaptureError when it cannot be started.
[[nodiscard]] RunningDump run_dump_tool(const Program& tool, int lifeline = -1);

/// The same for one that checks a database; its name is that of the program.
[[nodiscard]] RunningCheck run_check_tool(const Program& tool);

}  // namespace stillpoint
