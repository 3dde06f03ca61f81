// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"
#include "host/guest/domain.hh"

#include <memory>
#include <string>

namespace stillpoint {

/// Carries bytes between a channel of a domain and a socket of this process. It goes through libvirt, so that it works
/// where the channel's own socket cannot be reached: remote URIs, a libvirtd in a mount namespace of its own.
class StreamBridge {
 public:
  /// Opens the channel named `channel`. Throws Locked when somebody else has it open, Unreachable.
  StreamBridge(const Domain& domain, const std::string& channel);
  StreamBridge(const StreamBridge&) = delete;
  StreamBridge& operator=(const StreamBridge&) = delete;
  ~StreamBridge();

  /// Our end: a stream socket, which reads end of file when the channel has gone. Once only.
  [[nodiscard]] UniqueFd take_socket() noexcept { return std::move(socket_); }

  class Flow;

 private:
  UniqueFd socket_;
  std::shared_ptr<Flow> flow_;
};

}  // namespace stillpoint
