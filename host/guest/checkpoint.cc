// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/checkpoint.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "host/guest/backup-job.hh"
#include "host/guest/session.hh"
#include "host/guest/virt-error.hh"

#include <fmt/format.h>
#include <libvirt/virterror.h>

#include <cstdlib>

namespace stillpoint {

std::optional<std::vector<CheckpointDisk>> checkpoint_disks(const Domain& domain, const std::string& name) {
  const std::shared_ptr<virDomain> target = domain.state()->reach();
  const std::string what = fmt::format("cannot read checkpoint {} of {}", name, domain.name());
  const CheckpointPtr checkpoint(virDomainCheckpointLookupByName(target.get(), name.c_str(), 0));
  if (!checkpoint) {
    const VirtFault fault = last_virt_fault();
    if (fault.code == VIR_ERR_NO_DOMAIN_CHECKPOINT) return std::nullopt;
    throw_virt<CaptureError>(what, fault);
  }
  const bool with_sizes = domain.running();
  unsigned flags = VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN;
  if (with_sizes) flags |= VIR_DOMAIN_CHECKPOINT_XML_SIZE;
  const CPtr<char, std::free> xml(virDomainCheckpointGetXMLDesc(checkpoint.get(), flags));
  if (!xml) throw_virt<CaptureError>(what);
  return parse_checkpoint_xml(xml.get(), with_sizes);
}

bool remove_checkpoint(const Domain& domain, const std::string& name) {
  try {
    const std::shared_ptr<virDomain> target = domain.state()->reach();
    const CheckpointPtr checkpoint(virDomainCheckpointLookupByName(target.get(), name.c_str(), 0));
    if (!checkpoint) {
      const VirtFault fault = last_virt_fault();
      if (fault.code == VIR_ERR_NO_DOMAIN_CHECKPOINT) return true;
      throw_virt<CaptureError>("cannot find it", fault);
    }
    if (virDomainCheckpointDelete(checkpoint.get(), 0) == 0) return true;
    const VirtFault fault = last_virt_fault();
    throw_common_virt("cannot remove it", fault);
    if (virDomainCheckpointDelete(checkpoint.get(), VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY) < 0)
      throw_virt<CaptureError>("cannot remove it");
    log_warning("checkpoint {} of {}: only libvirt's record of it could be removed: {}", name, domain.name(),
                fault.message);
    return true;
  } catch (const std::exception& error) {
    log_warning("checkpoint {} of {} stays: {}", name, domain.name(), error.what());
    return false;
  }
}

std::vector<std::string> checkpoints_named(const Domain& domain, std::string_view prefix) {
  const std::shared_ptr<virDomain> target = domain.state()->reach();
  virDomainCheckpointPtr* found = nullptr;
  const int count = virDomainListAllCheckpoints(target.get(), &found, 0);
  if (count < 0) throw_virt<CaptureError>(fmt::format("cannot list the checkpoints of {}", domain.name()));
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) {
    const CheckpointPtr checkpoint(found[i]);
    const std::string_view name = virDomainCheckpointGetName(checkpoint.get());
    if (name.starts_with(prefix)) names.emplace_back(name);
  }
  std::free(found);
  return names;
}

void remove_stale_checkpoints(const Domain& domain, std::string_view prefix, const std::string& keep) {
  if (prefix.empty()) throw std::logic_error("every checkpoint of the domain would be removed");
  for (const std::string& name : checkpoints_named(domain, prefix))
    if (name != keep) remove_checkpoint(domain, name);
}

}  // namespace stillpoint
