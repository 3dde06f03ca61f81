// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/commands/command.hh"

#include <span>

namespace stillpoint {

/// Parses the command line, runs its verb, and turns every outcome into an exit code: the program's exception boundary.
[[nodiscard]] int run_command_line(int argc, const char* const* argv, std::span<const Verb> verbs) noexcept;

}  // namespace stillpoint
