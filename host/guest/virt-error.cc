// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/virt-error.hh"

#include <fmt/format.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <mutex>

namespace stillpoint {

namespace {

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

void ignore_error(void* /*opaque*/, virErrorPtr /*error*/) {}

}  // namespace

bool VirtFault::connection_lost() const noexcept {
  switch (code) {
    case VIR_ERR_NO_CONNECT:
    case VIR_ERR_INVALID_CONN:
    case VIR_ERR_RPC:
    case VIR_ERR_AUTH_FAILED:
    case VIR_ERR_AUTH_CANCELLED:
    case VIR_ERR_AUTH_UNAVAILABLE:
      return true;
    case VIR_ERR_INTERNAL_ERROR:  // what the client says of a connection that was closed under it
      return contains(message, "client socket is closed") || contains(message, "connection closed");
    case VIR_ERR_SYSTEM_ERROR:
      return contains(message, "socket") || contains(message, "end of file");
    default:
      return false;
  }
}

bool VirtFault::busy() const noexcept {
  return (code == VIR_ERR_OPERATION_TIMEOUT && contains(message, "state change lock")) ||
         (code == VIR_ERR_OPERATION_INVALID && contains(message, "another") && contains(message, "job"));
}

bool VirtFault::agent_silent() const noexcept {
  return code == VIR_ERR_AGENT_UNRESPONSIVE || code == VIR_ERR_AGENT_UNSYNCED ||
         (code == VIR_ERR_ARGUMENT_UNSUPPORTED && contains(message, "guest agent"));
}

VirtFault last_virt_fault() {
  const virErrorPtr error = virGetLastError();
  if (error == nullptr || error->code == VIR_ERR_OK) return {VIR_ERR_INTERNAL_ERROR, "libvirt gives no reason"};
  return {error->code, error->message != nullptr ? error->message : "libvirt gives no reason"};
}

void silence_virt_errors() {
  static std::once_flag once;
  std::call_once(once, [] { virSetErrorFunc(nullptr, ignore_error); });
}

std::string virt_message(std::string_view what, const VirtFault& fault) {
  return fmt::format("{}: {}", what, fault.message);
}

void throw_common_virt(std::string_view what, const VirtFault& fault) {
  if (fault.code == VIR_ERR_NO_DOMAIN) throw NotFound(virt_message(what, fault));
  if (fault.code == VIR_ERR_ACCESS_DENIED || fault.code == VIR_ERR_AUTH_FAILED)
    throw Unreachable(virt_message(what, fault), "run it as root, or as a user that libvirt lets manage domains");
  if (fault.connection_lost())
    throw Unreachable(virt_message(what, fault), "look whether libvirtd runs and answers: virsh list");
  if (fault.busy())
    throw Locked(fmt::format("{}: another operation holds the domain ({})", what, fault.message),
                 "wait for it to end, or look at it with virsh domjobinfo");
}

}  // namespace stillpoint
