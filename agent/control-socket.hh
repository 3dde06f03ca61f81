// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/main-loop.hh"
#include "agent/still-point.hh"
#include "common/file.hh"
#include "common/frame.hh"

#include <filesystem>
#include <list>

namespace stillpoint {

/// The socket on which qemu-ga's hook asks for the barrier and for its release (docs/protocol.md). Only root is heard;
/// one request a connection.
class ControlSocket {
 public:
  /// Makes the socket (and its directory). Throws ConfigError when another agent listens there.
  ControlSocket(const std::filesystem::path& path, StillPoint& still_point);
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;
  ~ControlSocket();

 private:
  struct Connection;
  using Connections = std::list<Connection>;

  void accept();
  void read(Connections::iterator connection);
  void answer(Connections::iterator connection, const Json& request);
  void reply(std::uint64_t number, const Json& message);
  void close(Connections::iterator connection);

  std::filesystem::path path_;
  StillPoint& still_point_;
  UniqueFd listener_;
  Source source_;
  Connections connections_;
  std::uint64_t next_number_ = 0;
};

}  // namespace stillpoint
