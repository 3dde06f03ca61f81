// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/boot.hh"

#include "common/clock.hh"
#include "common/deleter.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "common/program.hh"
#include "host/guest/domain-life.hh"
#include "host/guest/new-domain-xml.hh"

#include <fmt/format.h>
#include <glib.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
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
  // Numbers are used again: it is ours when it was told to write this very file.
  try {
    const std::string words = read_text(fmt::format("/proc/{}/cmdline", pid), 1 << 20);
    if (words.find(pid_file.native()) != std::string::npos) ::kill(pid, SIGTERM);
  } catch (const Error&) {
    // It has ended already.
  }
}

/// Ends servers that no client has ended, and deletes what boot() has made, and nothing that lies beside it.
void clear(const BootRequest& request, const Manifest* manifest = nullptr) noexcept {
  try {
    std::vector<fs::path> ours{request.directory / marker};
    for (const fs::directory_entry& entry : fs::directory_iterator(request.directory)) {
      const fs::path extension = entry.path().extension();
      const std::string target = entry.path().stem().native();
      const bool is_ours = manifest == nullptr ||
                           std::ranges::find(manifest->disks, target, &DiskRecord::target) != manifest->disks.end();
      if (extension == ".pid") end_server(entry.path());
      if (is_ours && (extension == ".pid" || extension == ".sock" || extension == ".qcow2"))
        ours.push_back(entry.path());
    }
    for (const fs::path& path : ours)
      fs::remove(path);
    if (::rmdir(request.directory.c_str()) != 0 && errno != ENOTEMPTY)
      log_warning("{}", errno_message(fmt::format("cannot delete {}", request.directory.native()), errno));
  } catch (const std::exception& error) {
    log_warning("{} is left: {}", request.directory.native(), error.what());
  }
}

std::string image_format(const DiskRecord& disk) {
  return disk.format == "qcow2" ? "qcow2" : "raw";
}

fs::path image_of(const DiskRecord& disk, const BootRequest& request, const fs::path& images) {
  return images / fmt::format("{}-{}.{}", request.name, disk.target, image_format(disk));
}

bool is_below(const fs::path& path, const fs::path& directory) {
  const fs::path relative = fs::weakly_canonical(path).lexically_relative(fs::weakly_canonical(directory));
  return !relative.empty() && *relative.begin() != "..";
}

void make_directory(const fs::path& directory) {
  std::error_code failure;
  fs::create_directories(directory.parent_path(), failure);
  // QEMU's user passes through, and sees nothing but what he is told of.
  if (failure || ::mkdir(directory.c_str(), 0711) != 0 || ::chmod(directory.c_str(), 0711) != 0)
    throw UsageError(fmt::format("cannot make the directory {}: {}", directory.native(),
                                 failure ? failure.message() : std::system_category().message(errno)),
                     "name another one with --directory");
}

void serve_disk(const DiskRecord& disk, const ServedDisk& access, const BootRequest& request,
                const std::optional<UserAndGroup>& owner) {
  ServedDisk served = access;
  served.disk = disk.target;
  const ServingPlace place{.socket = socket_of(request, disk.target), .address = {}, .port = 0};
  const fs::path overlay = overlay_of(request, disk.target);
  start_disk_server(served, place, pid_file_of(request, disk.target));
  make_overlay(overlay, nbd_uri(place), disk.map.size);
  // What the guest has and writes is nobody's but QEMU's.
  for (const fs::path& path : {place.socket, overlay})
    if (::chmod(path.c_str(), 0600) != 0 || (owner && ::chown(path.c_str(), owner->user, owner->group) != 0))
      throw_errno<CaptureError>(fmt::format("cannot give {} to QEMU's user", path.native()));
}

}  // namespace

Booted boot(Connection& libvirt, const Manifest& manifest, const ServedDisk& access, const BootRequest& request,
            const std::stop_token& stop) {
  if (manifest.domain_xml.empty())
    throw UsageError(fmt::format("{} is of an image without a domain", manifest.name),
                     "serve its disk, and start a guest on an overlay yourself");
  if (libvirt.has(request.name))
    throw UsageError(fmt::format("there is a domain {} already", request.name), "name another one with --name");
  NewDomain wanted{.name = request.name, .disks = {}, .network = request.network};
  for (const DiskRecord& disk : manifest.disks)
    wanted.disks.push_back({disk.target, overlay_of(request, disk.target), "qcow2"});
  NewDefinition definition = new_domain_xml(manifest.domain_xml, wanted);
  const std::optional<UserAndGroup> owner = libvirt.qemu_user();
  make_directory(request.directory);
  std::optional<Domain> domain;
  try {
    for (const DiskRecord& disk : manifest.disks) {
      if (stop.stop_requested()) throw Interrupted("stopped before the domain was started");
      serve_disk(disk, access, request, owner);
    }
    domain = libvirt.define(definition.xml);
    // A name may be another domain's one day.
    replace_file(request.directory / marker, domain->uuid() + "\n", 0600);
    if (stop.stop_requested()) throw Interrupted("stopped before the domain was started");
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

void check_commit(const Manifest& manifest, const BootRequest& request, const fs::path& images) {
  if (!fs::is_directory(images)) throw UsageError(fmt::format("there is no directory {}", images.native()));
  if (is_below(images, request.directory))
    throw UsageError(fmt::format("{} is deleted when all is moved out of it", request.directory.native()),
                     "name another directory with --commit");
  for (const DiskRecord& disk : manifest.disks)
    if (const fs::path image = image_of(disk, request, images); fs::exists(fs::symlink_status(image)))
      throw UsageError(fmt::format("{} is there already", image.native()), "name another directory with --commit");
}

void commit_booted(const Domain& domain, const Manifest& manifest, const BootRequest& request, const fs::path& images,
                   const std::function<void(const std::string&, std::uint64_t, std::uint64_t)>& progress,
                   const std::stop_token& stop) {
  for (const DiskRecord& disk : manifest.disks)
    move_disk(
        domain, disk.target, image_of(disk, request, images), image_format(disk),
        [&](std::uint64_t done, std::uint64_t all) { progress(disk.target, done, all); }, stop);
  clear(request, &manifest);
}

void remove_booted(Connection& libvirt, const BootRequest& request) {
  std::error_code ignored;
  const fs::path mark = request.directory / marker;
  if (!fs::exists(mark, ignored))
    throw NotFound(fmt::format("{} is no domain that 'boot' has made in {}", request.name, request.directory.native()),
                   "name its directory with --directory; one that was committed is removed as any other domain");
  std::string uuid = read_text(mark, 4096);
  while (uuid.ends_with('\n'))
    uuid.pop_back();
  if (libvirt.has(uuid)) remove_domain(libvirt.domain(uuid));
  clear(request);
}

}  // namespace stillpoint
