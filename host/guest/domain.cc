// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/domain.hh"

#include "common/deleter.hh"
#include "common/errors.hh"
#include "host/guest/agent-command.hh"
#include "host/guest/domain-xml.hh"
#include "host/guest/guest-fs.hh"
#include "host/guest/session.hh"
#include "host/guest/virt-error.hh"

#include <fmt/format.h>
#include <glib.h>
#include <libvirt/libvirt.h>

#include <cstdlib>

namespace stillpoint {

namespace {

using MallocPtr = CPtr<char, std::free>;
using SecretPtr = CPtr<virSecret, virSecretFree>;

std::string live_or_defined_xml(virDomainPtr domain, const std::string& name) {
  const MallocPtr text(virDomainGetXMLDesc(domain, 0));
  if (!text) throw_virt<CaptureError>(fmt::format("cannot read the definition of {}", name));
  return text.get();
}

}  // namespace

const std::string& Domain::name() const {
  return state_->name;
}

const std::string& Domain::uuid() const {
  return state_->uuid;
}

bool Domain::running() const {
  const int active = virDomainIsActive(state_->reach().get());
  if (active < 0) throw_virt<Unreachable>(fmt::format("cannot read the state of {}", name()));
  return active == 1;
}

bool Domain::has_saved_memory() const {
  const int saved = virDomainHasManagedSaveImage(state_->reach().get(), 0);
  if (saved < 0) throw_virt<Unreachable>(fmt::format("cannot read the state of {}", name()));
  return saved == 1;
}

std::string Domain::xml() const {
  return live_or_defined_xml(state_->reach().get(), name());
}

std::vector<DomainDisk> Domain::disks() const {
  const std::shared_ptr<virDomain> domain = state_->reach();
  std::vector<DomainDisk> disks = parse_domain_xml(live_or_defined_xml(domain.get(), name()), running()).disks;
  for (DomainDisk& disk : disks) {
    if (disk.rbd) continue;  // libvirt asks QEMU alone, and the image knows it better
    virDomainBlockInfo info{};
    if (virDomainGetBlockInfo(domain.get(), disk.target.c_str(), &info, 0) < 0)
      throw_virt<CaptureError>(fmt::format("cannot read the size of disk {} of {}", disk.target, name()));
    disk.size = info.capacity;
  }
  return disks;
}

std::vector<SkippedDisk> Domain::skipped_disks() const {
  return parse_domain_xml(xml(), running()).skipped;
}

std::string Domain::ceph_key(const DomainRbd& rbd) const {
  if (rbd.secret.empty()) return {};
  const std::shared_ptr<virConnect> connection = state_->session->connection();
  SecretPtr secret(virSecretLookupByUUIDString(connection.get(), rbd.secret.c_str()));
  if (!secret) secret.reset(virSecretLookupByUsage(connection.get(), VIR_SECRET_USAGE_TYPE_CEPH, rbd.secret.c_str()));
  const std::string what = fmt::format("cannot read the Ceph key of disk {}/{} of {}", rbd.pool, rbd.image, name());
  if (!secret) throw_virt<ConfigError>(what);
  std::size_t size = 0;
  const CPtr<unsigned char, std::free> value(virSecretGetValue(secret.get(), &size, 0));
  if (!value) {
    const VirtFault fault = last_virt_fault();
    throw ConfigError(virt_message(what, fault),
                      "its secret must not be private, and have a value (virsh secret-set-value)");
  }
  const CPtr<char, g_free> text(g_base64_encode(value.get(), size));
  return text.get();
}

std::string Domain::guest_agent_fault() const {
  try {
    if (!running()) return "the domain does not run";
    static_cast<void>(agent_command(*this, R"({"execute":"guest-ping"})", agent_ping_limit));
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

std::vector<GuestFileSystem> Domain::guest_file_systems() const {
  const std::shared_ptr<virDomain> domain = state_->reach();
  const AgentResponseTimeout limit(domain, agent_question_limit);
  virDomainFSInfoPtr* found = nullptr;
  const int count = virDomainGetFSInfo(domain.get(), &found, 0);
  if (count < 0) return {};
  std::vector<GuestFileSystem> told;
  for (int i = 0; i < count; ++i) {
    const CPtr<virDomainFSInfo, virDomainFSInfoFree> info(found[i]);
    GuestFileSystem fs{info->mountpoint != nullptr ? info->mountpoint : "",
                       info->name != nullptr ? info->name : "",
                       info->fstype != nullptr ? info->fstype : "",
                       {}};
    for (std::size_t alias = 0; alias < info->ndevAlias; ++alias)
      fs.targets.emplace_back(info->devAlias[alias] != nullptr ? info->devAlias[alias] : "");
    told.push_back(std::move(fs));
  }
  std::free(found);
  return believable(std::move(told));
}

}  // namespace stillpoint
