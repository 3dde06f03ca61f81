// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/connection.hh"

#include "common/bounded-call.hh"
#include "common/deleter.hh"
#include "host/guest/domain-xml.hh"
#include "host/guest/event-loop.hh"
#include "host/guest/session.hh"
#include "host/guest/virt-error.hh"

#include <fmt/format.h>
#include <glib.h>
#include <libvirt/virterror.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

namespace stillpoint {

namespace {

constexpr std::size_t most_names_in_hint = 8;
constexpr std::chrono::seconds define_limit{60};

std::string named(const std::string& uri) {
  return uri.empty() ? "libvirt" : fmt::format("libvirt at {}", uri);
}

std::shared_ptr<virConnect> open_connection(const std::string& uri) {
  const char* name = uri.empty() ? nullptr : uri.c_str();
  // No authentication callbacks: nobody is there to type a password.
  const virConnectPtr opened = virConnectOpenAuth(name, nullptr, 0);
  if (opened == nullptr) {
    const VirtFault fault = last_virt_fault();
    throw_common_virt("cannot connect to " + named(uri), fault);
    throw Unreachable(virt_message("cannot connect to " + named(uri), fault),
                      "look whether libvirtd runs and answers: virsh list");
  }
  std::shared_ptr<virConnect> connection(opened, [](virConnectPtr it) { virConnectClose(it); });
  // 1 and errors mean that the driver has no keep-alive (test:///, a daemon in this process): nothing to lose there.
  virConnectSetKeepAlive(opened, keepalive_interval_seconds, keepalive_count);
  return connection;
}

std::shared_ptr<virConnect> open_in_time(const std::string& uri) {
  start_event_loop();
  // Opening speaks to the daemon before keep-alive is on, and ssh may ask for something.
  auto opened = bounded_call(Deadline(connect_limit), [uri] { return open_connection(uri); });
  if (!opened)
    throw Unreachable(fmt::format("{} does not answer", named(uri)), "look whether libvirtd hangs: virsh list");
  return std::move(*opened);
}

std::string domain_names(virConnectPtr connection) {
  virDomainPtr* domains = nullptr;
  const int count = virConnectListAllDomains(connection, &domains, 0);
  std::string names;
  for (int i = 0; i < count; ++i) {
    const VirtDomainPtr domain(domains[i]);
    const auto number = static_cast<std::size_t>(i);
    if (number < most_names_in_hint)
      names += fmt::format("{}{}", names.empty() ? "" : ", ", virDomainGetName(domain.get()));
    if (number == most_names_in_hint) names += ", ...";
  }
  if (count >= 0) std::free(domains);  // NOLINT: libvirt's array comes from malloc
  return names;
}

std::string uuid_of(virDomainPtr domain) {
  std::array<char, VIR_UUID_STRING_BUFLEN> text{};
  if (virDomainGetUUIDString(domain, text.data()) < 0) throw_virt<Unreachable>("cannot read the domain's UUID");
  return text.data();
}

}  // namespace

Session::Session(std::string uri) : uri_(std::move(uri)), connection_(open_in_time(uri_)) {}

std::shared_ptr<virConnect> Session::connection() {
  const std::lock_guard lock(mutex_);
  if (virConnectIsAlive(connection_.get()) != 1) connection_ = open_in_time(uri_);
  return connection_;
}

std::shared_ptr<virDomain> Domain::State::reach() {
  const std::shared_ptr<virConnect> connection = session->connection();
  const std::lock_guard lock(mutex_);
  if (domain_ == nullptr || connection != connection_) {
    const virDomainPtr found = virDomainLookupByUUIDString(connection.get(), uuid.c_str());
    if (found == nullptr) throw_virt<Unreachable>(fmt::format("cannot find domain {}", name));
    connection_ = connection;
    domain_ = std::shared_ptr<virDomain>(found, [connection](virDomainPtr it) { virDomainFree(it); });
  }
  return domain_;
}

Connection::Connection(const std::string& uri) : session_(std::make_shared<Session>(uri)) {}

Domain Connection::domain(const std::string& name) {
  const std::shared_ptr<virConnect> connection = session_->connection();
  VirtDomainPtr found(virDomainLookupByName(connection.get(), name.c_str()));
  VirtFault fault;
  if (!found) {
    fault = last_virt_fault();
    found.reset(virDomainLookupByUUIDString(connection.get(), name.c_str()));
  }
  if (!found) {
    const std::string what = fmt::format("cannot look up domain '{}'", name);
    if (fault.code != VIR_ERR_NO_DOMAIN) throw_virt<Unreachable>(what, fault);
    const std::string names = domain_names(connection.get());
    throw NotFound(fmt::format("{} has no domain '{}'", named(session_->uri()), name),
                   names.empty() ? "there is no domain at all: is this the right libvirt (--connect)?"
                                 : "domains there: " + names);
  }
  return Domain(std::make_shared<Domain::State>(session_, virDomainGetName(found.get()), uuid_of(found.get())));
}

bool Connection::has(const std::string& name) {
  try {
    static_cast<void>(domain(name));
    return true;
  } catch (const NotFound&) {
    return false;
  }
}

std::optional<UserAndGroup> Connection::qemu_user() {
  const std::shared_ptr<virConnect> connection = session_->connection();
  const CPtr<char, std::free> text(virConnectGetCapabilities(connection.get()));
  if (!text) throw_virt<Unreachable>("libvirt does not say what it can do");
  return parse_qemu_user(text.get());
}

std::vector<std::string> Connection::users_of(const std::filesystem::path& path, const std::string& but_uuid) {
  const std::shared_ptr<virConnect> connection = session_->connection();
  virDomainPtr* list = nullptr;
  const int count = virConnectListAllDomains(connection.get(), &list, 0);
  if (count < 0) throw_virt<Unreachable>("libvirt does not list its domains");
  std::vector<VirtDomainPtr> domains;
  for (int i = 0; i < count; ++i)
    domains.emplace_back(list[i]);
  std::free(list);  // NOLINT: libvirt's array comes from malloc
  // Of others' files, which may lie where nobody answers: as they are called, then.
  const auto canonical = [](const std::filesystem::path& name) {
    std::error_code unknown;
    std::filesystem::path real = std::filesystem::weakly_canonical(name, unknown);
    return unknown ? name : real;
  };
  const std::filesystem::path wanted = canonical(path);
  std::vector<std::string> users;
  for (const VirtDomainPtr& domain : domains) {
    if (uuid_of(domain.get()) == but_uuid) continue;
    const CPtr<char, std::free> xml(virDomainGetXMLDesc(domain.get(), 0));
    if (!xml) {
      const VirtFault fault = last_virt_fault();
      if (fault.code == VIR_ERR_NO_DOMAIN) continue;  // it has gone meanwhile
      throw_virt<Unreachable>("cannot see whose disks there are", fault);
    }
    const std::vector<std::string> paths = disk_paths(xml.get());
    if (std::any_of(paths.begin(), paths.end(), [&](const std::string& each) { return canonical(each) == wanted; }))
      users.emplace_back(virDomainGetName(domain.get()));
  }
  return users;
}

std::filesystem::path Connection::tpm_root() {
  const CPtr<char, std::free> uri(virConnectGetURI(session_->connection().get()));
  if (!uri) throw_virt<Unreachable>("libvirt does not say what it is");
  std::string_view path(uri.get());
  path = path.substr(0, path.find('?'));
  if (!path.ends_with("/session")) return "/var/lib/libvirt/swtpm";
  return std::filesystem::path(g_get_user_config_dir()) / "libvirt/qemu/swtpm";
}

Domain Connection::define(const std::string& xml) {
  const std::shared_ptr<virConnect> connection = session_->connection();
  auto defined = bounded_call(Deadline(define_limit), [connection, xml] {
    const VirtDomainPtr domain(virDomainDefineXMLFlags(connection.get(), xml.c_str(), 0));
    if (!domain) throw_virt<CaptureError>("libvirt does not take the new domain");
    return std::pair<std::string, std::string>(virDomainGetName(domain.get()), uuid_of(domain.get()));
  });
  if (!defined) throw Unreachable("libvirt does not answer when a domain is defined");
  return Domain(std::make_shared<Domain::State>(session_, std::move(defined->first), std::move(defined->second)));
}

}  // namespace stillpoint
