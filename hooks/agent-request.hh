// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/json.hh"

#include <filesystem>

namespace stillpoint {

/// Sends one request over the agent's control socket and returns its answer. Throws Unreachable when there is none
/// within the deadline; the agent notices that we are gone, and undoes what it began.
[[nodiscard]] Json ask_agent(const std::filesystem::path& socket, const Json& request, const Deadline& deadline);

}  // namespace stillpoint
