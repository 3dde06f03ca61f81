// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/agent-port.hh"

#include "common/bounded-call.hh"
#include "common/deleter.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "common/protocol.hh"
#include "host/guest/domain-xml.hh"
#include "host/guest/session.hh"
#include "host/guest/virt-error.hh"

#include <fmt/format.h>

#include <cstdlib>
#include <optional>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;

constexpr std::chrono::milliseconds unplug_limit = 15s;

std::string channel_xml() {
  return fmt::format("<channel type='unix'><target type='virtio' name='{}'/></channel>", protocol::port_name);
}

std::optional<DomainChannel> find_port(const std::string& xml, bool running) {
  for (const DomainChannel& channel : parse_domain_xml(xml, running).channels)
    if (channel.name == protocol::port_name) return channel;
  return std::nullopt;
}

bool is_defined(virDomainPtr domain) {
  if (virDomainIsPersistent(domain) != 1) return true;  // its live definition is the only one
  const CPtr<char, std::free> xml(virDomainGetXMLDesc(domain, VIR_DOMAIN_XML_INACTIVE));
  return !xml || find_port(xml.get(), false).has_value();
}

}  // namespace

AgentPort::AgentPort(const Domain& domain, const Deadline& deadline) : domain_(domain) {
  if (!domain_.running()) throw Unreachable(fmt::format("{} does not run", domain_.name()));
  if (!find_port(domain_.xml(), true))
    plug_in(deadline);
  else
    left_behind_ = !is_defined(domain_.state()->reach().get());
}

void AgentPort::plug_in(const Deadline& deadline) {
  const std::string what = fmt::format("cannot plug the agent's port into {}", domain_.name());
  const auto done = bounded_call(deadline, [domain = domain_, what] {
    const std::shared_ptr<virDomain> target = domain.state()->reach();
    if (virDomainAttachDeviceFlags(target.get(), channel_xml().c_str(), VIR_DOMAIN_AFFECT_LIVE) < 0)
      throw_virt<Unreachable>(what);
    return true;
  });
  if (!done) throw Unreachable(what + ": libvirt does not answer in time");
  plugged_in_ = true;
}

AgentPort::~AgentPort() {
  if (!plugged_in_) return;
  try {
    const auto done = bounded_call(Deadline(unplug_limit), [domain = domain_] {
      const std::optional<DomainChannel> port = find_port(domain.xml(), true);
      if (!port) return true;
      // By alias: a description of the device would have to name the socket that libvirt chose.
      const std::shared_ptr<virDomain> target = domain.state()->reach();
      if (virDomainDetachDeviceAlias(target.get(), port->alias.c_str(), 0) < 0)
        throw_virt<Unreachable>("libvirt refuses");
      return true;
    });
    if (!done) throw Unreachable("libvirt does not answer in time");
  } catch (const std::exception& error) {
    log_warning("the agent's port stays plugged into {}: {}", domain_.name(), error.what());
  }
}

}  // namespace stillpoint
