// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/boot.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "common/program.hh"
#include "common/test-pause.hh"
#include "host/guest/domain-life.hh"
#include "host/guest/domain-state.hh"
#include "host/guest/domain-xml.hh"
#include "host/guest/new-domain-xml.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <system_error>
#include <thread>

namespace stillpoint {

namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds image_limit{60};
/// Says that a directory is of our making, whose domain it is, and what it was booted from: a line each.
constexpr const char* marker = "booted";
constexpr std::size_t longest_marker = 4096;
constexpr std::chrono::seconds server_end_limit{10};
constexpr std::chrono::milliseconds server_interval{20};

fs::path socket_of(const BootRequest& request, const std::string& target) {
  return request.directory / (target + ".sock");
}
fs::path pid_file_of(const BootRequest& request, const std::string& target) {
  return request.directory / (target + ".pid");
}
fs::path overlay_of(const BootRequest& request, const std::string& target) {
  return request.directory / (target + ".qcow2");
}

/// What of a replica was cloned for it.
fs::path clones_of(const BootRequest& request) {
  return request.directory / "clones";
}

constexpr const char* nvram_name = "nvram.fd";

/// libvirt deletes it with the domain, but for some versions.
void remove_tpm(const fs::path& root, const std::string& uuid) {
  std::error_code failure;
  if (is_uuid(uuid)) fs::remove_all(root / uuid, failure);
  if (failure) log_warning("the TPM's state of {} is left in {}: {}", uuid, root.native(), failure.message());
}

/// The backing is named and not opened: a server that ends with its last client must not see one yet.
void make_overlay(const fs::path& overlay, const std::string& backing, std::uint64_t size) {
  const fs::path path = program_on_path("qemu-img");
  if (path.empty()) throw ConfigError("there is no program qemu-img", "install the package qemu-utils");
  Program program{.path = path,
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

/// 0 for one that has ended.
pid_t server_of(const fs::path& pid_file) {
  std::error_code ignored;
  if (!fs::exists(pid_file, ignored)) return 0;
  const std::string text = read_text(pid_file, 64);
  pid_t pid = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), pid).ec != std::errc() || pid <= 1) return 0;
  // Numbers are used again: it is ours when it was told to write this very file.
  try {
    const std::string words = read_text(fmt::format("/proc/{}/cmdline", pid), 1 << 20);
    if (words.find(pid_file.native()) != std::string::npos) return pid;
  } catch (const Error&) {
    // It has ended already.
  }
  return 0;
}

void end_server(const fs::path& pid_file) {
  if (const pid_t pid = server_of(pid_file); pid != 0) ::kill(pid, SIGTERM);
}

/// One that still ends would take the next one's socket with it.
void await_end_of_server(const fs::path& pid_file) {
  end_server(pid_file);
  const Deadline limit(server_end_limit);
  while (server_of(pid_file) != 0) {
    if (limit.passed()) throw Unreachable(fmt::format("the server of {} does not end", pid_file.native()));
    std::this_thread::sleep_for(server_interval);
  }
}

struct Mark {
  std::string uuid;
  std::string still_point;  ///< empty in one of an earlier version
  std::string id;           ///< of the still point
};

Mark read_mark(const BootRequest& request) {
  std::error_code ignored;
  const fs::path path = request.directory / marker;
  if (!fs::exists(path, ignored))
    throw NotFound(fmt::format("{} is no domain that 'boot' has made in {}", request.name, request.directory.native()),
                   "name its directory with --directory; one that was committed is as any other domain");
  const std::string text = read_text(path, longest_marker);
  Mark mark;
  std::istringstream lines(text);
  for (std::string* line : {&mark.uuid, &mark.still_point, &mark.id})
    std::getline(lines, *line);
  return mark;
}

/// Nobody else starts or commits it meanwhile.
UniqueFd lock_mark(const BootRequest& request) {
  UniqueFd mark = open_file(request.directory / marker, O_RDONLY | O_NOFOLLOW);
  if (::flock(mark.get(), LOCK_EX | LOCK_NB) == 0) {
    struct stat status {};
    if (::fstat(mark.get(), &status) == 0 && status.st_nlink > 0) return mark;
    throw NotFound(fmt::format("{} was committed or removed just now", request.name));
  }
  if (errno != EWOULDBLOCK) throw_errno(fmt::format("cannot lock {}", (request.directory / marker).native()));
  throw Locked(fmt::format("somebody else works on {}", request.name), "try again when that is done");
}

/// Ends servers that no client has ended, and deletes what boot() has made, and nothing that lies beside it.
void clear(const BootRequest& request, const Manifest* manifest = nullptr) noexcept {
  try {
    std::vector<fs::path> ours;
    // Clones that could not be removed yet can be later.
    if (!is_on_clones(request)) ours.push_back(request.directory / marker);
    // One that is committed later has its variables here for good.
    if (manifest == nullptr) ours.push_back(request.directory / nvram_name);
    for (const fs::directory_entry& entry : fs::directory_iterator(request.directory)) {
      const fs::path extension = entry.path().extension();
      const std::string target = entry.path().stem().native();
      const bool is_ours = manifest == nullptr || disk_record(*manifest, target) != nullptr;
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

fs::path committed_nvram(const BootRequest& request, const fs::path& images) {
  return images / (request.name + "-nvram.fd");
}

fs::path image_of(const DiskRecord& disk, const BootRequest& request, const fs::path& images) {
  return images / fmt::format("{}-{}.{}", request.name, disk.target, image_format(disk));
}

/// By what it was booted from, it is not another's.
void check_mark(const Manifest& manifest, const BootRequest& request) {
  if (read_mark(request).id != manifest.id)
    throw UsageError(fmt::format("{} was booted from another still point {}", request.name, manifest.name),
                     "name the repository that it was booted from");
}

/// Copies off the overlays that nobody will complete, and their images. An operator's own copies have other names.
void end_moves(const Domain& domain, const BootRequest& request) {
  if (!domain.running()) return;
  for (const DiskCopy& copy : disk_copies(domain.xml())) {
    const fs::path image = copy.image;
    const bool is_ours = image.stem() == fmt::format("{}-{}", request.name, copy.target) &&
                         (image.extension() == ".qcow2" || image.extension() == ".raw") &&
                         fs::weakly_canonical(copy.source) == fs::weakly_canonical(overlay_of(request, copy.target));
    if (!is_ours) continue;
    try {
      end_copy(domain, copy.target);
    } catch (const CaptureError& error) {
      log_warning("{}", error.what());
    }
    // It may have moved over meanwhile.
    const std::vector<std::string> used = disk_paths(domain.xml());
    std::error_code failure;
    if (std::ranges::find(used, copy.image) == used.end()) fs::remove(copy.image, failure);
    if (failure) log_warning("{} is left: {}", copy.image, failure.message());
  }
}

bool is_below(const fs::path& path, const fs::path& directory) {
  const fs::path relative = fs::weakly_canonical(path).lexically_relative(fs::weakly_canonical(directory));
  return !relative.empty() && *relative.begin() != "..";
}

void check_images_directory(const BootRequest& request, const fs::path& images) {
  if (!fs::is_directory(images)) throw UsageError(fmt::format("there is no directory {}", images.native()));
  if (is_below(images, request.directory))
    throw UsageError(fmt::format("{} is deleted when all is moved out of it", request.directory.native()),
                     "name another directory with --commit");
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

enum class Overlay { to_make, there };

void serve_disk(const DiskRecord& disk, const ServedDisk& access, const BootRequest& request, Overlay state,
                const std::optional<UserAndGroup>& owner) {
  ServedDisk served = access;
  served.disk = disk.target;
  const ServingPlace place{.socket = socket_of(request, disk.target), .address = {}, .port = 0};
  const fs::path overlay = overlay_of(request, disk.target);
  start_disk_server(served, place, pid_file_of(request, disk.target));
  if (state == Overlay::to_make) make_overlay(overlay, nbd_uri(place), disk.map.size);
  // What the guest has and writes is nobody's but QEMU's.
  for (const fs::path& path : {place.socket, overlay})
    if (::chmod(path.c_str(), 0600) != 0 || (owner && ::chown(path.c_str(), owner->user, owner->group) != 0))
      throw_errno<CaptureError>(fmt::format("cannot give {} to QEMU's user", path.native()));
}

void add_clones(NewDomain& domain, const ReplicaClones& clones, const ReplicaToBoot& replica) {
  for (const ReplicaClones::Clone& clone : clones.clones()) {
    NewDisk& disk = domain.disks.emplace_back(NewDisk{clone.disk, {}, "raw"});
    disk.rbd = NewRbdDisk{
        .name = to_string(clone.place), .conf = replica.conf, .user = replica.address.user, .secret = replica.secret};
  }
}

}  // namespace

bool is_on_clones(const BootRequest& request) {
  std::error_code ignored;
  return fs::exists(clones_of(request), ignored);
}

Booted boot(Connection& libvirt, const Manifest& manifest, const ServedDisk& access, const BootRequest& request,
            const std::stop_token& stop) {
  if (manifest.domain_xml.empty())
    throw UsageError(fmt::format("{} is of an image without a domain", manifest.name),
                     "serve its disk, and start a guest on an overlay yourself");
  if (libvirt.has(request.name))
    throw UsageError(fmt::format("there is a domain {} already", request.name), "name another one with --name");
  NewDomain wanted{.name = request.name, .disks = {}, .network = request.network};
  std::optional<ReplicaClones> clones;
  if (request.replica) clones.emplace(*request.replica, manifest, request.name);
  for (const DiskRecord& disk : manifest.disks)
    if (!clones) wanted.disks.push_back({disk.target, overlay_of(request, disk.target), "qcow2"});
  if (clones) add_clones(wanted, *clones, *request.replica);
  wanted.uuid = new_uuid();
  const fs::path tpm_root = libvirt.tpm_root();
  const auto owner = libvirt.qemu_user();
  StateTargets targets{
      .nvram = request.images.empty() ? request.directory / nvram_name : committed_nvram(request, request.images),
      .tpm = {},
      .nvram_owner = owner};
  if (std::ranges::any_of(request.state,
                          [](const LoadedState& s) { return s.record.kind == StateRecord::Kind::nvram; }))
    wanted.nvram = targets.nvram;
  NewDefinition definition = new_domain_xml(manifest.domain_xml, wanted);
  targets.tpm = tpm_directory(definition.xml, tpm_root, wanted.uuid);
  for (const StateRecord& record : manifest.state)
    if (!record.failure.empty())
      definition.left_out.push_back(fmt::format("{}, not captured: {}", to_string(record.kind), record.failure));
  StateWriter state(request.state, targets, false);
  make_directory(request.directory);
  std::optional<Domain> domain;
  UniqueFd lock;
  try {
    // First of all: what is made from here on, and could not be removed again, is remove_booted()'s. By the UUID, for a
    // name may be another domain's one day.
    replace_file(request.directory / marker, fmt::format("{}\n{}\n{}\n", wanted.uuid, manifest.name, manifest.id),
                 0600);
    lock = lock_mark(request);
    if (clones) clones->make(clones_of(request));
    for (const DiskRecord& disk : manifest.disks) {
      if (stop.stop_requested()) throw Interrupted("stopped before the domain was started");
      if (!clones) serve_disk(disk, access, request, Overlay::to_make, owner);
    }
    state.write();
    domain = libvirt.define(definition.xml);
    if (stop.stop_requested()) throw Interrupted("stopped before the domain was started");
    start_domain(*domain);
    state.keep();
  } catch (...) {
    try {
      if (domain) remove_domain(*domain);
      if (domain) remove_tpm(tpm_root, domain->uuid());
      remove_clones(clones_of(request));
    } catch (const std::exception& error) {
      log_warning("{}", error.what());
    }
    clear(request);
    throw;
  }
  return {std::move(*domain), std::move(definition.left_out)};
}

std::string booted_from(const BootRequest& request) {
  std::string name = read_mark(request).still_point;
  if (name.empty())
    throw NotFound(fmt::format("it is not written down what {} was booted from", request.name),
                   "an earlier version has booted it: boot it anew");
  return name;
}

Domain booted_domain(Connection& libvirt, const BootRequest& request) {
  return libvirt.domain(read_mark(request).uuid);
}

std::vector<DiskRecord> unmoved_disks(const Domain& domain, const Manifest& manifest, const BootRequest& request) {
  const std::vector<std::string> used = disk_paths(domain.xml());
  std::vector<DiskRecord> unmoved;
  for (const DiskRecord& disk : manifest.disks) {
    const fs::path overlay = fs::weakly_canonical(overlay_of(request, disk.target));
    if (std::ranges::any_of(used, [&](const std::string& path) { return fs::weakly_canonical(path) == overlay; }))
      unmoved.push_back(disk);
  }
  return unmoved;
}

Domain resume_booted(Connection& libvirt, const Manifest& manifest, const ServedDisk& access,
                     const BootRequest& request, const std::stop_token& stop) {
  Domain domain = booted_domain(libvirt, request);
  const UniqueFd lock = lock_mark(request);
  check_mark(manifest, request);
  if (domain.running()) return domain;
  const std::vector<DiskRecord> disks = unmoved_disks(domain, manifest, request);
  const std::optional<UserAndGroup> owner = libvirt.qemu_user();
  const auto end_all = [&] {
    for (const DiskRecord& disk : disks) {
      await_end_of_server(pid_file_of(request, disk.target));
      fs::remove(socket_of(request, disk.target));
    }
  };
  try {
    end_all();
    for (const DiskRecord& disk : disks) {
      if (stop.stop_requested()) throw Interrupted("stopped before the domain was started");
      serve_disk(disk, access, request, Overlay::there, owner);
    }
    if (stop.stop_requested()) throw Interrupted("stopped before the domain was started");
    start_domain(domain);
  } catch (...) {
    try {
      end_all();
    } catch (const std::exception& error) {
      log_warning("{}", error.what());
    }
    throw;
  }
  return domain;
}

void check_commit(const Manifest& manifest, const BootRequest& request, const fs::path& images) {
  check_images_directory(request, images);
  for (const DiskRecord& disk : manifest.disks)
    if (const fs::path image = image_of(disk, request, images); fs::exists(fs::symlink_status(image)))
      throw UsageError(fmt::format("{} is there already", image.native()), "name another directory with --commit");
  const bool has_nvram = std::ranges::any_of(
      request.state, [](const LoadedState& s) { return s.record.kind == StateRecord::Kind::nvram; });
  if (const fs::path nvram = committed_nvram(request, images); has_nvram && fs::exists(fs::symlink_status(nvram)))
    throw UsageError(fmt::format("{} is there already", nvram.native()), "name another directory with --commit");
}

void commit_booted(const Domain& domain, const Manifest& manifest, const BootRequest& request, const fs::path& images,
                   const std::function<void(const std::string&, std::uint64_t, std::uint64_t)>& progress,
                   const std::stop_token& stop) {
  const UniqueFd lock = lock_mark(request);
  for (const DiskRecord& disk : unmoved_disks(domain, manifest, request))
    move_disk(
        domain, disk.target, image_of(disk, request, images), image_format(disk),
        [&](std::uint64_t done, std::uint64_t all) {
          progress(disk.target, done, all);
          pause_for_test("boot-move");
        },
        stop);
  clear(request, &manifest);
}

void end_interrupted_commit(const Domain& domain, const Manifest& manifest, const BootRequest& request,
                            const fs::path& images) {
  check_images_directory(request, images);
  const UniqueFd lock = lock_mark(request);
  check_mark(manifest, request);
  end_moves(domain, request);
}

void remove_booted(Connection& libvirt, const BootRequest& request) {
  const std::string uuid = read_mark(request).uuid;
  const UniqueFd lock = lock_mark(request);
  if (libvirt.has(uuid)) {
    const Domain domain = libvirt.domain(uuid);
    end_moves(domain, request);
    remove_domain(domain);
  }
  remove_tpm(libvirt.tpm_root(), uuid);
  remove_clones(clones_of(request));
  clear(request);
}

}  // namespace stillpoint
