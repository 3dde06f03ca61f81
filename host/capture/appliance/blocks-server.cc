// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/appliance/blocks-server.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "config.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <system_error>

namespace stillpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds server_limit{30};

/// The plugin of this build, beside this program when it is installed.
fs::path blocks_plugin() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  return (error ? fs::path(STILLPOINT_LIBEXEC) : self.parent_path()) / "nbdkit-stillpoint-blocks-plugin.so";
}

}  // namespace

RunningProgram start_blocks_server(const fs::path& temporary, const std::vector<std::uint64_t>& sizes, int blocks_fd,
                                   BlocksAccess access) {
  const fs::path nbdkit = program_on_path("nbdkit");
  if (nbdkit.empty()) throw CaptureError("there is no nbdkit: install the package nbdkit");
  const fs::path pid_file = temporary / "nbdkit.pid";
  Program program;
  program.path = nbdkit;
  program.environment = {"TMPDIR=" + temporary.native()};
  program.arguments = {access == BlocksAccess::overlay ? "--filter=cow" : "--readonly",
                       "--foreground",
                       "--exit-with-parent",
                       "--pidfile",
                       pid_file.native(),
                       "--unix",
                       (temporary / "blocks").native(),
                       blocks_plugin().native(),
                       "fd=3",
                       fmt::format("disks={}", fmt::join(sizes, ","))};
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  RunningProgram server(program, {.output = null.get(), .errors = null.get(), .lifeline = blocks_fd});
  const Deadline limit(server_limit);
  std::error_code ignored;
  while (!fs::exists(pid_file, ignored))
    if (server.wait(Deadline(std::chrono::milliseconds(20))) || limit.passed())
      throw CaptureError("nbdkit does not serve the disks' blocks");
  return server;
}

}  // namespace stillpoint
