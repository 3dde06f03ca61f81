// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/boot.hh"

#include "common/clock.hh"
#include "common/deleter.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "common/program.hh"
#include "host/guest/domain-life.hh"
#include "host/guest/domain-xml.hh"
#include "host/guest/new-domain-xml.hh"

#include <fmt/format.h>
#include <glib.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <optional>
#include <system_error>

namespace stillpoint {

namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds image_limit{60};
/// Says that a directory is of our making, and whose domain it is.
constexpr const char* marker = "booted";

fs::path socket_of(const BootRequest& request, const std::string& target) {
  return request.directory / (target + ".sock");
}
fs::path pid_file_of(const BootRequest& request, const std::string& target) {
  return request.directory / (target + ".pid");
}
fs::path overlay_of(const BootRequest& request, const std::string& target) {
  return request.directory / (target + ".qcow2");
}

/// The backing is named and not opened: a server that ends with its last client must not see one yet.
void make_overlay(const fs::path& overlay, const std::string& backing, std::uint64_t size) {
  const CPtr<char, g_free> path(::g_find_program_in_path("qemu-img"));
  if (!path) throw ConfigError("there is no program qemu-img", "install the package qemu-utils");
  Program program{.path = path.get(),
                  .arguments = {"create", "-q", "-f", "qcow2", "-F", "raw", "-b", backing, "-u", overlay.native(),
                                std::to_string(size)},
                  .environment = {"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"},
                  .user = {}};
  Pipe pipe = open_pipe("qemu-img");
  RunningProgram running(program, {.output = pipe.write_end.get(), .errors = pipe.write_end.get()});
  pipe.write_end.reset();
  Intake messages(std::move(pipe.read_end), 4096, Intake::Keep::end);
  if (!running.wait(Deadline(image_limit), {&messages, 1}) || running.status() != 0)
    throw StorageError(fmt::format("cannot make the image {}: {}", overlay.native(), messages.text()));
}

void end_server(const fs::path& pid_file) {
  std::error_code ignored;
  if (!fs::exists(pid_file, ignored)) return;
  const std::string text = read_text(pid_file, 64);
  pid_t pid = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), pid).ec != std::errc() || pid <= 1) return;
  // Numbers are used again.
  try {
    if (read_text(fmt::format("/proc/{}/comm", pid), 64) == "nbdkit\n") ::kill(pid, SIGTERM);
  } catch (const Error&) {
    // It has ended already.
  }
}

/// Ends servers that no client has ended, and deletes the directory.
void clear(const BootRequest& request) noexcept {
  try {
    for (const fs::directory_entry& entry : fs::directory_iterator(request.directory))
      if (entry.path().extension() == ".pid") end_server(entry.path());
    fs::remove_all(request.directory);
  } catch (const std::exception& error) {
    log_warning("{} is left: {}", request.directory.native(), error.what());
  }
}

void make_directory(const fs::path& directory) {
  std::error_code failure;
  fs::create_directories(directory.parent_path(), failure);
  // QEMU's user passes through, and sees nothing but what he is told of.
  if (failure || ::mkdir(directory.c_str(), 0711) != 0)
    throw UsageError(fmt::format("cannot make the directory {}: {}", directory.native(),
                                 failure ? failure.message() : std::system_category().message(errno)),
                     "name another one with --directory");
}

void serve_disk(const DiskRecord& disk, const ServedDisk& access, const BootRequest& request,
                const std::optional<UserAndGroup>& owner) {
  ServedDisk served = access;
  served.disk = disk.target;
  const ServingPlace place{.socket = socket_of(request, disk.target), .address = {}, .port = 0};
  start_disk_server(served, place, pid_file_of(request, disk.target));
  if (owner && ::chown(place.socket.c_str(), owner->user, owner->group) != 0)
    throw_errno<CaptureError>(fmt::format("cannot give {} to QEMU's user", place.socket.native()));
  make_overlay(overlay_of(request, disk.target), nbd_uri(place), disk.map.size);
}

}  // namespace

Booted boot(Connection& libvirt, const Manifest& manifest, const ServedDisk& access, const BootRequest& request) {
  if (manifest.domain_xml.empty())
    throw UsageError(fmt::format("{} is of an image without a domain", manifest.name),
                     "serve its disk, and start a guest on an overlay yourself");
  if (libvirt.has(request.name))
    throw UsageError(fmt::format("there is a domain {} already", request.name), "name another one with --name");
  NewDomain wanted{.name = request.name, .disks = {}, .network = request.network};
  for (const DiskRecord& disk : manifest.disks)
    wanted.disks.push_back({disk.target, overlay_of(request, disk.target), "qcow2"});
  NewDefinition definition = new_domain_xml(manifest.domain_xml, wanted);
  const std::optional<UserAndGroup> owner = parse_domain_xml(manifest.domain_xml, true).owner;
  make_directory(request.directory);
  std::optional<Domain> domain;
  try {
    replace_file(request.directory / marker, fmt::format("{}\n", request.name), 0600);
    for (const DiskRecord& disk : manifest.disks)
      serve_disk(disk, access, request, owner);
    domain = libvirt.define(definition.xml);
    start_domain(*domain);
  } catch (...) {
    try {
      if (domain) remove_domain(*domain);
    } catch (const std::exception& error) {
      log_warning("{}", error.what());
    }
    clear(request);
    throw;
  }
  return {std::move(*domain), std::move(definition.left_out)};
}

void commit_booted(const Domain& domain, const Manifest& manifest, const BootRequest& request, const fs::path& images,
                   const std::function<void(const std::string&, std::uint64_t, std::uint64_t)>& progress,
                   const std::stop_token& stop) {
  for (const DiskRecord& disk : manifest.disks) {
    const std::string format = disk.format == "qcow2" ? "qcow2" : "raw";
    const fs::path image = images / fmt::format("{}-{}.{}", request.name, disk.target, format);
    if (fs::exists(fs::symlink_status(image)))
      throw UsageError(fmt::format("{} is there already", image.native()),
                       fmt::format("{} goes on, on its overlays", request.name));
    move_disk(
        domain, disk.target, image, format,
        [&](std::uint64_t done, std::uint64_t all) { progress(disk.target, done, all); }, stop);
  }
  clear(request);
}

void remove_booted(Connection& libvirt, const BootRequest& request) {
  std::error_code ignored;
  const fs::path mark = request.directory / marker;
  if (!fs::exists(mark, ignored) || read_text(mark, 4096) != request.name + "\n")
    throw NotFound(fmt::format("{} is no domain that 'boot' has made in {}", request.name, request.directory.native()),
                   "name its directory with --directory; one that was committed is removed as any other domain");
  if (libvirt.has(request.name)) remove_domain(libvirt.domain(request.name));
  clear(request);
}

}  // namespace stillpoint
