// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/disk-server.hh"

#include "common/clock.hh"
#include "common/deleter.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "config.hh"

#include <fmt/format.h>
#include <glib.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

namespace stillpoint {

namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds start_limit{60};
constexpr std::chrono::seconds end_limit{5};
constexpr std::chrono::milliseconds look_interval{50};
constexpr std::size_t most_text = 4096;
/// The descriptor that RunningProgram passes on beside the standard ones.
constexpr int inherited = 3;

/// The plugin of this build while it is not installed; nbdkit finds an installed one by its name.
std::string plugin() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  const std::string build = std::string(STILLPOINT_BUILD_DIR) + "/";
  if (!error && self.native().starts_with(build)) return build + "host/restore/nbdkit-stillpoint-plugin.so";
  return "stillpoint";
}

enum class Life { ours, its_clients };

Program server(const ServedDisk& disk, const ServingPlace& place, const fs::path& pid_file, Life life) {
  const fs::path path = program_on_path("nbdkit");
  if (path.empty()) throw ConfigError("there is no nbdkit, which serves disks", "install the package nbdkit");
  Program program;
  program.path = path;
  program.arguments = {disk.writable ? "--filter=cow" : "--readonly", "--pidfile", pid_file.native()};
  if (life == Life::ours)
    program.arguments.insert(program.arguments.end(), {"--foreground", "--exit-with-parent"});
  else
    program.arguments.emplace_back("--filter=exitlast");
  if (place.socket.empty())
    program.arguments.insert(program.arguments.end(),
                             {"--ipaddr", place.address, "--port", std::to_string(place.port)});
  else
    program.arguments.insert(program.arguments.end(), {"--unix", place.socket.native()});
  program.arguments.insert(program.arguments.end(),
                           {plugin(), "repository=" + disk.repository, "name=" + disk.name, "disk=" + disk.disk});
  if (!disk.key_file.empty()) program.arguments.push_back("key-file=" + fs::absolute(disk.key_file).native());
  if (disk.passphrase) program.arguments.push_back(fmt::format("passphrase=-{}", inherited));
  program.environment = own_environment();
  return program;
}

/// What is read from a pipe as the passphrase. A pipe holds more than the longest one.
UniqueFd pipe_with(const std::string& passphrase) {
  Pipe pipe = open_pipe("a passphrase");
  write_all(pipe.write_end.get(), as_bytes(passphrase + "\n"), "a pipe");
  return std::move(pipe.read_end);
}

[[noreturn]] void throw_server_ended(std::string text, int status) {
  // Its last line says why.
  while (text.ends_with('\n'))
    text.pop_back();
  text.erase(0, text.rfind('\n') + 1);
  throw Unreachable(fmt::format("the disk's server has ended: {}", text.empty() ? describe_status(status) : text));
}

}  // namespace

DiskServer::DiskServer(const ServedDisk& disk, const ServingPlace& place)
    : place_(place), pid_file_(fs::temp_directory_path() / ("stillpoint-nbdkit-" + random_id())) {
  try {
    const UniqueFd passphrase = disk.passphrase ? pipe_with(*disk.passphrase) : UniqueFd();
    Pipe messages = open_pipe("nbdkit's messages");
    program_ = RunningProgram(
        server(disk, place, pid_file_, Life::ours),
        {.output = messages.write_end.get(), .errors = messages.write_end.get(), .lifeline = passphrase.get()});
    messages_.emplace(std::move(messages.read_end), most_text, Intake::Keep::end);
  } catch (const CaptureError& error) {
    throw Unreachable(error.what(), error.hint());
  }
  await_listening();
}

DiskServer::~DiskServer() {
  // It has a lease in the repository to give back.
  program_.ask_to_end();
  static_cast<void>(program_.wait(Deadline(end_limit), {&*messages_, 1}));
  program_.end_group();
  std::error_code ignored;
  fs::remove(pid_file_, ignored);
  if (!place_.socket.empty()) fs::remove(place_.socket, ignored);
}

void DiskServer::await_listening() {
  const Deadline limit(start_limit);
  for (;;) {
    // Written once it listens.
    std::error_code error;
    if (fs::exists(pid_file_, error)) return;
    if (program_.wait(Deadline(look_interval), {&*messages_, 1})) throw_ended();
    if (limit.passed()) throw Unreachable(fmt::format("nbdkit does not listen within {} s", start_limit.count()));
  }
}

void DiskServer::throw_ended() {
  throw_server_ended(messages_->text(), program_.status());
}

std::string nbd_uri(const ServingPlace& place) {
  if (place.socket.empty()) return fmt::format("nbd://{}:{}", place.address, place.port);
  const CPtr<char, g_free> path(::g_uri_escape_string(place.socket.c_str(), "/", FALSE));
  return fmt::format("nbd+unix:///?socket={}", path.get());
}

void DiskServer::wait(const std::stop_token& stop) {
  while (!stop.stop_requested())
    if (program_.wait(Deadline(look_interval * 4), {&*messages_, 1})) throw_ended();
}

void start_disk_server(const ServedDisk& disk, const ServingPlace& place, const fs::path& pid_file) {
  try {
    const UniqueFd passphrase = disk.passphrase ? pipe_with(*disk.passphrase) : UniqueFd();
    Pipe pipe = open_pipe("nbdkit's messages");
    RunningProgram starter(
        server(disk, place, pid_file, Life::its_clients),
        {.output = pipe.write_end.get(), .errors = pipe.write_end.get(), .lifeline = passphrase.get()});
    pipe.write_end.reset();
    Intake messages(std::move(pipe.read_end), most_text, Intake::Keep::end);
    // It goes to the background once it listens.
    if (!starter.wait(Deadline(start_limit), {&messages, 1}))
      throw Unreachable(fmt::format("nbdkit does not listen within {} s", start_limit.count()));
    const int status = starter.reap();
    if (status != 0) throw_server_ended(messages.text(), status);
  } catch (const CaptureError& error) {
    throw Unreachable(error.what(), error.hint());
  }
}

}  // namespace stillpoint
