// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/json.hh"

#include <filesystem>

namespace stillpoint {

/// The request was sent, and no answer came within the deadline: what the agent made of it is not known.
class NoAnswer : public Unreachable {
 public:
  using Unreachable::Unreachable;
};

/// Sends one request over the agent's control socket and returns its answer. Throws Unreachable when there is no agent,
/// NoAnswer when it is silent or ends; it notices that we are gone, and undoes what it began.
[[nodiscard]] Json ask_agent(const std::filesystem::path& socket, const Json& request, const Deadline& deadline);

}  // namespace stillpoint
