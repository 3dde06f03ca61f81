// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/restore-domain.hh"

#include "common/clock.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "host/commands/format.hh"
#include "host/commands/output-file.hh"
#include "host/commands/output.hh"
#include "host/commands/rbd-disks.hh"
#include "host/commands/rbd-options.hh"
#include "host/commands/watched-progress.hh"
#include "host/guest/connection.hh"
#include "host/guest/domain-state.hh"
#include "host/guest/new-domain-xml.hh"
#include "host/restore/disk-target.hh"
#include "host/restore/logical-volumes.hh"
#include "host/restore/restore-disk.hh"
#include "host/restore/state-restore.hh"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <system_error>
#include <vector>

namespace stillpoint {

namespace {

namespace fs = std::filesystem;

struct PlacedDisk {
  const DiskRecord* record;
  fs::path path;
  std::string format;
  std::optional<RbdPlace> rbd{};  ///< instead of the path
};

std::string words_of(const PlacedDisk& disk) {
  return disk.rbd ? "rbd:" + to_string(*disk.rbd) : disk.path.native();
}

std::string name_of(const Manifest& manifest, const DomainRestore& wanted) {
  return wanted.name.empty() ? manifest.domain : wanted.name;
}

std::vector<PlacedDisk> place_in_group(const Manifest& manifest, const DomainRestore& wanted,
                                       const NewVolumes& volumes) {
  std::vector<PlacedDisk> disks;
  for (const DiskRecord& record : manifest.disks) {
    const std::string name = volume_name(name_of(manifest, wanted), record.target);
    volumes.check_name(name);
    disks.push_back({&record, volumes.path_of(name), "raw"});
  }
  return disks;
}

std::vector<PlacedDisk> place_in_pool(const Manifest& manifest, const DomainRestore& wanted, RbdImages& images) {
  std::vector<PlacedDisk> disks;
  for (const DiskRecord& record : manifest.disks) {
    RbdPlace place = *wanted.rbd;
    place.image = volume_name(name_of(manifest, wanted), record.target);
    images.check(place);
    disks.push_back({&record, {}, "raw", std::move(place)});
  }
  return disks;
}

bool is_rbd(const DiskRecord& record) {
  return record.source.starts_with("rbd:");
}

std::vector<PlacedDisk> place(const Manifest& manifest, const DomainRestore& wanted, RbdImages* images) {
  std::vector<PlacedDisk> disks;
  for (const DiskRecord& record : manifest.disks) {
    const std::string format = record.format == "qcow2" ? "qcow2" : "raw";
    fs::path path = wanted.directory / fmt::format("{}-{}.{}", name_of(manifest, wanted), record.target, format);
    if (wanted.in_place && is_rbd(record)) {
      const RbdPlace place = parse_rbd_place(record.source.substr(4));
      if (!images->has(place))
        throw UsageError(
            fmt::format("disk {} was at '{}', which is not there", record.target, printable(record.source)),
            "restore it with --disk and --to-rbd");
      images->check(place);
      disks.push_back({&record, {}, "raw", place});
      continue;
    }
    if (wanted.in_place) {
      path = record.source;
      if (!path.is_absolute() || !fs::exists(path))
        throw UsageError(
            fmt::format("disk {} was at '{}', which is not there", record.target, printable(record.source)),
            "name a directory with --to");
    } else if (!wanted.overwrite && fs::exists(fs::symlink_status(path))) {
      throw UsageError(fmt::format("{} is there already", path.native()), "use another directory, or --overwrite");
    }
    disks.push_back({&record, std::move(path), format});
  }
  return disks;
}

/// The disks are those of this very domain, here, and nobody has them open. Where its state lies.
StateTargets check_in_place(const Manifest& manifest, const Invocation& invocation) {
  if (manifest.domain_xml.empty())
    throw UsageError(fmt::format("{} is of images, which somebody may use", manifest.name),
                     "restore each of them with --disk and --to");
  Connection libvirt(invocation.libvirt_uri);
  if (!libvirt.has(manifest.domain_uuid))
    throw UsageError(fmt::format("the domain of {} is not defined here", manifest.name),
                     "restore it into a directory with --to, and --define it");
  const Domain domain = libvirt.domain(manifest.domain_uuid);
  const std::string name = printable(domain.name());
  if (domain.running())
    throw UsageError(fmt::format("{} runs: its disks cannot be replaced", name),
                     fmt::format("shut it off first: virsh shutdown {}", name));
  if (domain.has_saved_memory())
    throw UsageError(fmt::format("{} was saved with its memory, which would not fit the disks", name),
                     fmt::format("give that up first: virsh managedsave-remove {}", name));
  const std::vector<DomainDisk> now = domain.disks();
  for (const DiskRecord& record : manifest.disks) {
    const auto disk = std::ranges::find(now, record.target, &DomainDisk::target);
    if (disk == now.end() || disk->source != record.source)
      throw UsageError(
          fmt::format("disk {} of {} is not at {} any more", record.target, name, printable(record.source)),
          "restore into a directory with --to");
    if (const std::vector<std::string> users = libvirt.users_of(record.source, manifest.domain_uuid); !users.empty())
      throw UsageError(
          fmt::format("disk {} at {} is also {}'s", record.target, printable(record.source), printable(users.front())),
          "restore into a directory with --to");
  }
  const StatePlaces places = state_places(domain.xml(), libvirt.tpm_root(), false);
  for (const StateRecord& record : manifest.state)
    if (record.kind == StateRecord::Kind::nvram && record.failure.empty() && places.nvram != record.source)
      throw UsageError(
          fmt::format("the firmware's variables of {} are not at {} any more", name, printable(record.source)),
          "restore into a directory with --to");
  return {.nvram = places.nvram, .tpm = places.tpm, .nvram_owner = {}};
}

/// How the cluster of the domain's disks is reached: as libvirt does, by another configuration or as another user where
/// `wanted` names them. Throws UsageError when that is another cluster than the domain's.
CephAddress address_in_place(const Manifest& manifest, const CephAddress& wanted, const Invocation& invocation) {
  Connection libvirt(invocation.libvirt_uri);
  const Domain domain = libvirt.domain(manifest.domain_uuid);
  const std::vector<DomainDisk> now = domain.disks();
  std::optional<CephAddress> address;
  for (const DiskRecord& record : manifest.disks) {
    if (!is_rbd(record)) continue;
    const auto disk = std::ranges::find(now, record.target, &DomainDisk::target);
    if (disk == now.end() || !disk->rbd)
      throw UsageError(fmt::format("disk {} at {} is not raw", record.target, printable(record.source)),
                       "restore it with --disk and --to");
    CephAddress its{disk->rbd->conf, wanted.user, {}, disk->rbd->monitors};
    // Somebody else has another key.
    if (wanted.user.empty()) its = ceph_address(domain, *disk->rbd);
    if (address && *address != its)
      throw UsageError("the domain's disks are in several Ceph clusters, or reached as several users",
                       "restore each of them with --disk, --to-rbd and --overwrite");
    address = std::move(its);
  }
  if (!address) return wanted;
  if (wanted.conf.empty()) return *address;
  const CephAddress theirs = *address;
  address->conf = wanted.conf;
  // Monitors that libvirt names are asked in any case.
  if (address->monitors.empty())
    if (const std::string own = connect_ceph(theirs)->fsid(), other = connect_ceph(*address)->fsid(); own != other)
      throw UsageError(
          fmt::format("the domain's disks are in Ceph cluster {}, and {} is of {}", own, wanted.conf, other),
          "leave --ceph-conf out, or restore them with --to-rbd");
  return *address;
}

/// The domain may be on another cluster by now, with images of the same names.
void check_cluster(const Manifest& manifest, const RbdImages& images) {
  for (const DiskRecord& record : manifest.disks)
    if (is_rbd(record) && record.rbd && record.rbd->cluster != images.fsid())
      throw UsageError(fmt::format("disk {} was in Ceph cluster {}, and the domain's is {}", record.target,
                                   record.rbd->cluster, images.fsid()),
                       "restore it with --disk and --to-rbd");
}

/// For a definition: the configuration is named when the disk's own monitors are another cluster's.
std::string conf_for(const DiskRecord& record, const RbdImages& images, const CephAddress& address) {
  std::string conf = conf_in_use(address);
  if (conf.empty() && record.rbd && record.rbd->cluster != images.fsid()) conf = "/etc/ceph/ceph.conf";
  return conf;
}

/// A disk on its way: nothing of it is to be seen before complete(), but on a block device.
struct OpenDisk {
  const PlacedDisk* disk;
  std::unique_ptr<BlockReader> content;
  std::unique_ptr<DiskTarget> target;
  struct stat before {};
  bool replaces = false;
};

/// All of them are opened before one is written, and all are written before one gets its name: what can go wrong goes
/// wrong before anything is replaced. `before_disk` is called before something is written to each, and `before_names`
/// is the last that may throw.
void write_disks(Repository& repository, const std::vector<PlacedDisk>& disks, NewVolumes* volumes, RbdImages* images,
                 bool overwrite, RateLimit* limit, const Invocation& invocation,
                 const std::function<void()>& before_disk, const std::function<void()>& before_names) {
  std::vector<OpenDisk> open;
  for (const PlacedDisk& disk : disks) {
    OpenDisk& it = open.emplace_back();
    it.disk = &disk;
    it.replaces = !disk.rbd && ::stat(disk.path.c_str(), &it.before) == 0 && S_ISREG(it.before.st_mode);
    it.content = repository.open_disk(disk.record->map);
    if (disk.rbd) {
      it.target = images->open(*disk.rbd, *disk.record);
      continue;
    }
    if (volumes != nullptr) volumes->make(disk.path.filename().native(), it.content->size());
    it.target = volumes != nullptr ? open_new_volume(disk.path, it.content->size(), volumes->read_as_zeros())
                                   : open_disk_target(disk.path, disk.format, it.content->size(), overwrite);
  }
  Progress progress(invocation.progress, STDERR_FILENO);
  for (OpenDisk& it : open) {
    WatchedProgress watched(
        progress.line(it.disk->record->target), invocation.stop,
        volumes != nullptr  ? "stopped before the disks were complete: their volumes are removed again"
        : images != nullptr ? "stopped before the disks were complete: new images are removed again"
                            : "stopped before the disks were complete: nothing but block devices was changed");
    before_disk();
    fill_target(*it.content, *it.target, watched, limit);
  }
  before_names();
  for (OpenDisk& it : open) {
    const fs::path& path = it.disk->path;
    it.target->complete();
    // It is used by whoever used the one that it replaces.
    if (it.replaces && (::chown(path.c_str(), it.before.st_uid, it.before.st_gid) != 0 ||
                        ::chmod(path.c_str(), it.before.st_mode & 07777U) != 0))
      log_warning("{}", errno_message(fmt::format("cannot give {} its owner", path.native()), errno));
  }
}

void make_directory(const fs::path& directory) {
  std::error_code failure;
  if (directory.empty()) return;
  fs::create_directories(directory, failure);
  if (failure) throw UsageError(fmt::format("cannot make {}: {}", directory.native(), failure.message()));
}

/// Beside the images; the TPM's where libvirt looks for it, when the domain is defined.
StateTargets place_state(const Manifest& manifest, const DomainRestore& wanted, Connection* libvirt,
                         const std::string& uuid) {
  const std::string name = name_of(manifest, wanted);
  StateTargets targets{
      .nvram = wanted.directory / (name + "-nvram.fd"), .tpm = wanted.directory / (name + "-tpm"), .nvram_owner = {}};
  if (libvirt == nullptr) return targets;
  if (fs::path theirs = tpm_directory(manifest.domain_xml, libvirt->tpm_root(), uuid); !theirs.empty())
    targets.tpm = std::move(theirs);
  return targets;
}

/// What of the domain's state is not brought back, in words.
std::vector<std::string> missing_state(const Manifest& manifest, const StateTargets& targets) {
  std::vector<std::string> missing;
  for (const StateRecord& record : manifest.state) {
    const bool is_nvram = record.kind == StateRecord::Kind::nvram;
    const std::string what = is_nvram ? "the firmware's variables" : "the TPM's state";
    if (!record.failure.empty())
      missing.push_back(fmt::format("{}, not captured: {}", what, record.failure));
    else if ((is_nvram ? targets.nvram : targets.tpm).empty())
      missing.push_back(fmt::format("{}: the domain has no such device any more", what));
  }
  return missing;
}

/// A TPM that is used would write over it.
void check_unused(Connection& libvirt, const Manifest& manifest, const std::vector<StateWriter::Written>& files) {
  if (std::ranges::find(files, StateRecord::Kind::tpm, &StateWriter::Written::kind) == files.end()) return;
  if (libvirt.has(manifest.domain_uuid) && libvirt.domain(manifest.domain_uuid).running())
    throw UsageError(fmt::format("{} runs: its TPM's state cannot be replaced", printable(manifest.domain)),
                     "shut it off first, or make a new domain with --name");
}

struct Outcome {
  std::string name;  ///< of the still point
  fs::path definition;
  std::string defined;
  std::vector<std::string> left_out;
  std::vector<StateWriter::Written> state;
  std::chrono::microseconds took;
};

void report(const std::vector<PlacedDisk>& disks, const Outcome& outcome, bool as_json) {
  Json list = Json::array();
  for (const PlacedDisk& disk : disks)
    list.push_back({{"disk", disk.record->target},
                    {"to", words_of(disk)},
                    {"format", disk.format},
                    {"bytes", disk.record->map.size}});
  Json state = Json::array();
  for (const StateWriter::Written& file : outcome.state)
    state.push_back({{"kind", to_string(file.kind)}, {"to", file.path.native()}, {"bytes", file.bytes}});
  if (as_json)
    return print_json({{"name", outcome.name},
                       {"disks", list},
                       {"state", state},
                       {"definition", outcome.definition.empty() ? Json(nullptr) : Json(outcome.definition.native())},
                       {"defined", outcome.defined.empty() ? Json(nullptr) : Json(outcome.defined)},
                       {"left_out", outcome.left_out},
                       {"took_us", outcome.took.count()}});
  for (const PlacedDisk& disk : disks)
    print_result(fmt::format("restored {} of {} to {}: {}, {}\n", printable(disk.record->target),
                             printable(outcome.name), printable(words_of(disk)), disk.format,
                             format_size(disk.record->map.size)));
  for (const StateWriter::Written& file : outcome.state)
    print_result(fmt::format("restored {} of {} to {}: {}\n", to_string(file.kind), printable(outcome.name),
                             printable(file.path.native()), format_size(file.bytes)));
  for (const std::string& what : outcome.left_out)
    print_result(fmt::format("without {}\n", printable(what)));
  if (!outcome.definition.empty())
    print_result(fmt::format("its definition is {}\n", printable(outcome.definition.native())));
  if (!outcome.defined.empty()) print_result(fmt::format("defined {}\n", printable(outcome.defined)));
  print_result(fmt::format("took {}\n", format_duration(outcome.took)));
}

}  // namespace

ExitCode restore_domain(Repository& repository, const Manifest& manifest, const DomainRestore& wanted, RateLimit* limit,
                        const Invocation& invocation) {
  if (wanted.define && manifest.domain_xml.empty())
    throw UsageError(fmt::format("{} is of images without a domain: there is nothing to define", manifest.name));
  if (wanted.rbd && wanted.directory.empty() && !manifest.domain_xml.empty())
    throw UsageError("where the domain's definition goes is not said", "name a directory with --to");
  StateTargets targets;
  if (wanted.in_place) targets = check_in_place(manifest, invocation);
  std::optional<NewVolumes> volumes;
  if (!wanted.volume_group.empty()) volumes.emplace(wanted.volume_group, wanted.thin_pool);
  std::optional<RbdImages> images;
  if (wanted.rbd || (wanted.in_place && std::ranges::any_of(manifest.disks, is_rbd))) {
    RbdRestore how = wanted.images;
    if (wanted.in_place) how.address = address_in_place(manifest, how.address, invocation);
    images.emplace(std::move(how));
    if (wanted.in_place) check_cluster(manifest, *images);
  }
  const std::vector<PlacedDisk> disks = volumes      ? place_in_group(manifest, wanted, *volumes)
                                        : wanted.rbd ? place_in_pool(manifest, wanted, *images)
                                                     : place(manifest, wanted, images ? &*images : nullptr);
  const fs::path definition_path = wanted.directory / (name_of(manifest, wanted) + ".xml");
  NewDomain domain{.name = wanted.name, .disks = {}, .network = true};
  if (!wanted.name.empty()) domain.uuid = new_uuid();
  for (const PlacedDisk& disk : disks) {
    NewDisk& it = domain.disks.emplace_back(NewDisk{disk.record->target, disk.path, disk.format, volumes.has_value()});
    if (disk.rbd)
      it.rbd = NewRbdDisk{.name = to_string(*disk.rbd),
                          .conf = conf_for(*disk.record, *images, wanted.images.address),
                          .user = wanted.images.address.user,
                          .secret = wanted.ceph_secret};
  }
  const std::vector<LoadedState> loaded = load_state(repository, manifest);
  const auto has = [&](StateRecord::Kind kind) {
    return std::ranges::any_of(loaded, [&](const LoadedState& state) { return state.record.kind == kind; });
  };
  if (!wanted.directory.empty()) {
    const StateTargets beside = place_state(manifest, wanted, nullptr, {});
    if (has(StateRecord::Kind::nvram)) domain.nvram = beside.nvram;
    if (has(StateRecord::Kind::tpm)) domain.tpm = beside.tpm;
  }
  NewDefinition definition;
  if (!manifest.domain_xml.empty()) definition = new_domain_xml(manifest.domain_xml, domain);
  const bool keep_definition = !wanted.directory.empty() && !definition.xml.empty();
  if (keep_definition) check_output_path(definition_path, wanted.overwrite);
  std::optional<Connection> libvirt;
  if (wanted.define) {
    libvirt.emplace(invocation.libvirt_uri);
    if (libvirt->has(name_of(manifest, wanted)) && !(wanted.name.empty() && wanted.overwrite))
      throw UsageError(fmt::format("there is a domain {} already", printable(name_of(manifest, wanted))),
                       "give the new one a name with --name, or replace its definition with --overwrite");
    if (wanted.name.empty() && libvirt->has(manifest.domain) &&
        libvirt->domain(manifest.domain).uuid() != manifest.domain_uuid)
      throw UsageError(fmt::format("{} is another domain of that name", printable(manifest.domain)),
                       "give the new one a name with --name");
  }
  if (!wanted.directory.empty())
    targets = place_state(manifest, wanted, libvirt ? &*libvirt : nullptr,
                          wanted.name.empty() ? manifest.domain_uuid : domain.uuid);
  StateWriter state(loaded, targets, wanted.overwrite);
  if (libvirt && wanted.name.empty()) check_unused(*libvirt, manifest, state.files());
  for (std::string& what : missing_state(manifest, targets))
    definition.left_out.push_back(std::move(what));
  make_directory(wanted.directory);
  const auto begun = SteadyClock::now();
  // It may have been started meanwhile.
  const auto check_again = [&] {
    if (wanted.in_place) static_cast<void>(check_in_place(manifest, invocation));
  };
  write_disks(repository, disks, volumes ? &*volumes : nullptr, images ? &*images : nullptr, wanted.overwrite, limit,
              invocation, check_again, [&] {
                state.prepare();
                check_again();
                if (libvirt && wanted.name.empty()) check_unused(*libvirt, manifest, state.files());
              });
  if (keep_definition) replace_file(definition_path, definition.xml, 0600);
  if (libvirt) static_cast<void>(libvirt->define(definition.xml));
  // What this replaces belongs to the domain that is there, until it is another one.
  state.complete();
  state.keep();
  if (volumes) volumes->keep();
  if (images) images->keep();
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun);
  report(disks,
         {.name = manifest.name,
          .definition = keep_definition ? definition_path : fs::path(),
          .defined = wanted.define ? name_of(manifest, wanted) : std::string(),
          .left_out = definition.left_out,
          .state = state.files(),
          .took = took},
         invocation.json);
  return ExitCode::success;
}

}  // namespace stillpoint
