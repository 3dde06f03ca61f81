// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/deleter.hh"
#include "host/guest/domain.hh"

#include <libvirt/libvirt.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <string>

namespace stillpoint {

using VirtDomainPtr = CPtr<virDomain, virDomainFree>;

/// How long opening a connection may take.
inline constexpr std::chrono::milliseconds connect_limit{10000};
/// libvirtd silent for interval * (count + 1) seconds ends every call on its connection. A libvirtd that is only busy
/// answers: its main loop does, whatever its workers do.
inline constexpr int keepalive_interval_seconds = 3;
inline constexpr unsigned keepalive_count = 3;

/// One connection to libvirt, opened anew when it was lost. Safe to use from several threads.
class Session {
 public:
  /// Throws Unreachable.
  explicit Session(std::string uri);

  [[nodiscard]] const std::string& uri() const noexcept { return uri_; }
  /// A connection that was alive a moment ago. Throws Unreachable.
  [[nodiscard]] std::shared_ptr<virConnect> connection();

 private:
  std::string uri_;
  std::mutex mutex_;
  std::shared_ptr<virConnect> connection_;
};

/// What the copies of a Domain share.
struct Domain::State {
  State(std::shared_ptr<Session> in_session, std::string its_name, std::string its_uuid)
      : session(std::move(in_session)), name(std::move(its_name)), uuid(std::move(its_uuid)) {}

  const std::shared_ptr<Session> session;
  const std::string name;
  const std::string uuid;

  /// libvirt's object on a connection that is alive; keeps that connection. Throws Unreachable, NotFound.
  [[nodiscard]] std::shared_ptr<virDomain> reach();

 private:
  std::mutex mutex_;
  std::shared_ptr<virConnect> connection_;
  std::shared_ptr<virDomain> domain_;
};

}  // namespace stillpoint
