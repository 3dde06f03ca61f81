// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/agent-command.hh"

#include "common/deleter.hh"
#include "common/json.hh"
#include "host/guest/session.hh"
#include "host/guest/virt-error.hh"

#include <fmt/format.h>
#include <libvirt/libvirt-qemu.h>
#include <libvirt/virterror.h>

#include <cstdlib>

namespace stillpoint {

namespace {

constexpr std::size_t longest_answer = std::size_t{1} << 20;

[[noreturn]] void throw_agent_fault(const Domain& domain, const VirtFault& fault) {
  const std::string what = fmt::format("qemu-ga of {} does not answer", domain.name());
  if (fault.code == VIR_ERR_ARGUMENT_UNSUPPORTED)
    throw Unreachable(fmt::format("{} has no channel for qemu-ga", domain.name()),
                      "add the channel org.qemu.guest_agent.0 to the domain");
  if (fault.agent_silent())
    throw Unreachable(virt_message(what, fault), "look whether qemu-guest-agent runs in the guest");
  throw_virt<Unreachable>(what, fault);
}

}  // namespace

std::string agent_command(const Domain& domain, const std::string& command, std::chrono::seconds limit) {
  const std::shared_ptr<virDomain> target = domain.state()->reach();
  const CPtr<char, std::free> answer(
      virDomainQemuAgentCommand(target.get(), command.c_str(), static_cast<int>(limit.count()), 0));
  if (!answer) throw_agent_fault(domain, last_virt_fault());
  return answer.get();
}

bool guest_says_frozen(const Domain& domain, std::chrono::seconds limit) {
  const std::string answer = agent_command(domain, R"({"execute":"guest-fsfreeze-status"})", limit);
  const std::string status = json_string(parse_json(answer, "qemu-ga's answer", {longest_answer, 8}), "return", 32);
  if (status == "frozen") return true;
  if (status == "thawed") return false;
  throw ProtocolError("qemu-ga gives a freeze status that is neither frozen nor thawed");
}

AgentResponseTimeout::AgentResponseTimeout(std::shared_ptr<virDomain> domain, std::chrono::seconds limit)
    : domain_(std::move(domain)) {
  // A libvirt that has no such limit fails here and waits as it always did; our own deadlines still hold.
  virDomainAgentSetResponseTimeout(domain_.get(), static_cast<int>(limit.count()), 0);
}

AgentResponseTimeout::~AgentResponseTimeout() {
  virDomainAgentSetResponseTimeout(domain_.get(), VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0);
}

}  // namespace stillpoint
