// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"
#include "common/program.hh"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>

namespace stillpoint {

/// A disk of a still point, and what opens its repository for whoever serves it.
struct ServedDisk {
  std::string repository;  ///< its url
  std::string name;        ///< the still point, in full
  std::string disk;
  std::string key_file;                   ///< empty for none
  std::optional<std::string> passphrase;  ///< for a repository that is opened by one
  bool writable = false;                  ///< what clients write goes to a file of the server's, which is gone with it
};

/// Where it listens: a Unix socket, or a port.
struct ServingPlace {
  std::filesystem::path socket;  ///< absolute; empty for a port
  std::string address;           ///< of the port
  std::uint16_t port = 0;
};

/// An NBD client's name for it: "nbd+unix:///?socket=...", "nbd://127.0.0.1:10809".
[[nodiscard]] std::string nbd_uri(const ServingPlace& place);

/// nbdkit with our plugin, as a child of ours: it ends when we do.
class DiskServer {
 public:
  /// Starts it, and waits until it listens. Throws Unreachable with what it says.
  DiskServer(const ServedDisk& disk, const ServingPlace& place);
  DiskServer(const DiskServer&) = delete;
  DiskServer& operator=(const DiskServer&) = delete;
  /// Ends it, and removes its socket.
  ~DiskServer();

  /// Until it is stopped. Throws Unreachable when the server ends by itself.
  void wait(const std::stop_token& stop);

 private:
  void await_listening();
  [[noreturn]] void throw_ended();

  ServingPlace place_;
  std::filesystem::path pid_file_;
  std::optional<Intake> messages_;
  RunningProgram program_;
};

/// The same as a program of its own, which outlives us and ends with its last client. Returns once it listens; its
/// number lies in `pid_file` while it runs. Throws Unreachable.
void start_disk_server(const ServedDisk& disk, const ServingPlace& place, const std::filesystem::path& pid_file);

}  // namespace stillpoint
