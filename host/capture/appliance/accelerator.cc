// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/appliance/accelerator.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/program.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <string>

namespace stillpoint {
namespace {

/// It takes a third of one where KVM is what it should be; where it is emulated itself, our own emulator is faster.
constexpr std::chrono::seconds probe_limit{5};
/// "out 0xf4, al" with al = 16 makes QEMU's isa-debug-exit end it with twice that and one.
constexpr std::array<unsigned char, 7> probe_code = {0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd};
constexpr int probe_status = 33;

}  // namespace

bool kvm_works(const std::filesystem::path& temporary) {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) return false;
  const std::filesystem::path qemu = program_on_path("qemu-system-x86_64");
  if (qemu.empty()) return true;  // another machine: libguestfs finds out by itself
  std::string sector(512, '\0');
  std::copy(probe_code.begin(), probe_code.end(), sector.begin());
  sector[510] = '\x55';
  sector[511] = '\xaa';
  const std::filesystem::path image = temporary / "probe";
  try {
    UniqueFd file(::open(image.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file) return false;
    write_all(file.get(), as_bytes(sector), image.native());
    file.reset();
    Program program;
    program.path = qemu;
    // The processor that libguestfs chooses: with others it may be fine.
    program.arguments = {"-accel",      "kvm",
                         "-cpu",        "max,la57=off",
                         "-m",          "32",
                         "-nodefaults", "-no-user-config",
                         "-display",    "none",
                         "-drive",      fmt::format("file={},format=raw,if=ide,readonly=off", image.native()),
                         "-device",     "isa-debug-exit,iobase=0xf4,iosize=4"};
    const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    RunningProgram running(program, {.output = null.get(), .errors = null.get()});
    const bool ended = running.wait(Deadline(probe_limit));
    const int status = running.end_group();
    std::error_code ignored;
    std::filesystem::remove(image, ignored);
    return ended && WIFEXITED(status) && WEXITSTATUS(status) == probe_status;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace stillpoint
