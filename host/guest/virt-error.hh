// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/errors.hh"

#include <string>
#include <string_view>

namespace stillpoint {

/// What libvirt reported last in this thread.
struct VirtFault {
  int code = 0;  ///< VIR_ERR_...
  std::string message;

  /// The connection is gone or was never there: libvirtd died, hangs, or refuses.
  [[nodiscard]] bool connection_lost() const noexcept;
  /// Another operation holds the domain (libvirt's "cannot acquire state change lock", an active backup job).
  [[nodiscard]] bool busy() const noexcept;
  /// The guest agent is not configured, not connected, or did not answer in time.
  [[nodiscard]] bool agent_silent() const noexcept;
};

[[nodiscard]] VirtFault last_virt_fault();

/// Keeps libvirt from printing errors by itself. Call it before anything of libvirt; idempotent.
void silence_virt_errors();

/// Throws what `fault` calls for: NotFound for a missing domain, Unreachable, Locked, and otherwise `E`.
template <typename E>
[[noreturn]] void throw_virt(std::string_view what, const VirtFault& fault);

/// The same for last_virt_fault(). Call it right after the libvirt call.
template <typename E>
[[noreturn]] void throw_virt(std::string_view what) {
  throw_virt<E>(what, last_virt_fault());
}

/// Throws Unreachable, Locked or NotFound where `fault` is one of these whatever was being done; returns otherwise.
void throw_common_virt(std::string_view what, const VirtFault& fault);

/// "cannot freeze web1: guest agent is not connected"
[[nodiscard]] std::string virt_message(std::string_view what, const VirtFault& fault);

}  // namespace stillpoint

template <typename E>
[[noreturn]] void stillpoint::throw_virt(std::string_view what, const VirtFault& fault) {
  throw_common_virt(what, fault);
  throw E(virt_message(what, fault));
}
