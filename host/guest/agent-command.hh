// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/guest/domain.hh"

#include <libvirt/libvirt.h>

#include <chrono>
#include <memory>
#include <string>

namespace stillpoint {

/// How long qemu-ga may take for a ping, and for a question that costs it some work.
inline constexpr std::chrono::seconds agent_ping_limit{5};
inline constexpr std::chrono::seconds agent_question_limit{10};

/// Sends one command to qemu-ga and returns its answer, JSON from the guest. Throws Unreachable when qemu-ga is not
/// there or does not answer within the limit, Locked when another operation holds the domain.
[[nodiscard]] std::string agent_command(const Domain& domain, const std::string& command, std::chrono::seconds limit);

/// Whether qemu-ga says that the guest is frozen. Throws as agent_command() does.
[[nodiscard]] bool guest_says_frozen(const Domain& domain, std::chrono::seconds limit);

/// Bounds what libvirt waits for qemu-ga's answers, for the scope; afterwards libvirt's default (no limit) holds again,
/// as it does not tell what was set before.
class AgentResponseTimeout {
 public:
  AgentResponseTimeout(std::shared_ptr<virDomain> domain, std::chrono::seconds limit);
  AgentResponseTimeout(const AgentResponseTimeout&) = delete;
  AgentResponseTimeout& operator=(const AgentResponseTimeout&) = delete;
  ~AgentResponseTimeout();

 private:
  std::shared_ptr<virDomain> domain_;
};

}  // namespace stillpoint
