// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/clock.hh"
#include "common/rate-limit.hh"
#include "host/commands/command.hh"
#include "host/commands/disk-choice.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/commands/rbd-options.hh"
#include "host/commands/restore-domain.hh"
#include "host/commands/watched-progress.hh"
#include "host/repository/repository.hh"
#include "host/restore/disk-target.hh"
#include "host/restore/logical-volumes.hh"
#include "host/restore/rbd-target.hh"
#include "host/restore/restore-disk.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

namespace stillpoint {

namespace {

struct RestoreOptions {
  std::string name;
  std::string disk;
  std::string to;
  std::string format;
  std::string limit;
  std::string domain_name;
  std::string volume_group;
  std::string thin_pool;
  std::string rbd;  ///< POOL[/NAMESPACE][/IMAGE]
  RbdOptions ceph;
  std::string secret;
  bool force = false;
  bool in_place = false;
  bool define = false;
  bool overwrite = false;
};

std::string format_of(const RestoreOptions& options, const DiskRecord& record, bool stream) {
  if (stream && options.format == "qcow2")
    throw UsageError("qcow2 cannot be written to a stream", "use --format raw, or name a file");
  if (!options.format.empty()) return options.format;
  return record.format == "qcow2" && !stream ? "qcow2" : "raw";
}

/// What is said of a cluster makes sense for images there alone.
void check_rbd_options(const RestoreOptions& options) {
  const bool whole = options.disk.empty();
  if (options.rbd.empty()) {
    if (options.ceph.has_layout())
      throw UsageError("the layout of RBD images is given, and none is made", "name their pool with --to-rbd");
    if (!options.in_place &&
        (options.force || !options.secret.empty() || !options.ceph.conf.empty() || !options.ceph.user.empty()))
      throw UsageError("a Ceph cluster is named, and nothing goes there", "name a pool with --to-rbd");
    return;
  }
  if (!options.volume_group.empty())
    throw UsageError("one disk goes to one place", "give --to-rbd or --to-volume-group");
  if (options.in_place) throw UsageError("--in-place has places already", "leave --to-rbd out");
  if (options.format == "qcow2") throw UsageError("RBD images are raw", "leave --format out");
  if (!whole && !options.to.empty()) throw UsageError("one disk goes to one place", "give --to or --to-rbd");
  if (!options.secret.empty() && !whole)
    throw UsageError("--ceph-secret is for a whole domain", "leave it, or --disk, out");
}

/// Which of the ways is meant, before anything is opened.
void check_options(const RestoreOptions& options) {
  check_rbd_options(options);
  const bool whole = options.disk.empty();
  const bool to_volumes = !options.volume_group.empty();
  if (!options.thin_pool.empty() && !to_volumes)
    throw UsageError("--thin-pool is a pool of a volume group", "name that with --to-volume-group");
  if (to_volumes && (options.in_place || !options.format.empty()))
    throw UsageError("a logical volume is made anew, and raw", "leave --in-place and --format out");
  if (to_volumes && whole && options.to.empty())
    throw UsageError("where the domain's definition goes is not said", "name a directory with --to");
  if (to_volumes && !whole && !options.to.empty())
    throw UsageError("one disk goes to one place", "give --to or --to-volume-group");
  if (options.in_place && !(whole && options.to.empty() && options.overwrite && options.domain_name.empty()))
    throw UsageError("--in-place replaces all disks of a domain where they are",
                     "give it with --overwrite, and without --disk, --to and --name");
  if (!options.in_place && options.to.empty() && !to_volumes && options.rbd.empty())
    throw UsageError("where to restore it is not said",
                     whole ? "name a directory with --to, or use --in-place" : "name a file with --to");
  if (whole && !options.format.empty() && options.rbd.empty())
    throw UsageError("--format is for one disk", "name the disk with --disk; all of them keep their formats");
  if (whole && options.to == "-") throw UsageError("only one disk fits into a stream", "name it with --disk");
  if (options.domain_name.find('/') != std::string::npos)
    throw UsageError(fmt::format("'{}' is no domain's name", printable(options.domain_name)));
  if (!whole && (options.define || (!options.domain_name.empty() && !to_volumes && options.rbd.empty())))
    throw UsageError("--define and --name are for a whole domain", "leave --disk out");
}

void report(const Manifest& manifest, const DiskRecord& record, const std::string& to, const std::string& format,
            SteadyClock::time_point begun, bool as_json) {
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun);
  if (as_json)
    print_json({{"name", manifest.name},
                {"disk", record.target},
                {"to", to},
                {"format", format},
                {"bytes", record.map.size},
                {"took_us", took.count()}});
  else
    print_result(fmt::format("restored {} of {} to {}: {}, {}, in {}\n", printable(record.target),
                             printable(manifest.name), printable(to), format, format_size(record.map.size),
                             format_duration(took)));
}

/// One disk, into a logical volume that is made for it.
ExitCode restore_volume(Repository& repository, const Manifest& manifest, const DiskRecord& record,
                        const RestoreOptions& options, RateLimit* limit, const Invocation& invocation) {
  const auto begun = SteadyClock::now();
  NewVolumes volumes(options.volume_group, options.thin_pool);
  const std::string name =
      volume_name(options.domain_name.empty() ? manifest.domain : options.domain_name, record.target);
  volumes.check_name(name);
  const auto disk = repository.open_disk(record.map);
  volumes.make(name, disk->size());
  {
    Progress progress(invocation.progress, STDERR_FILENO);
    WatchedProgress watched(progress.line(record.target), invocation.stop,
                            "stopped before the disk was complete: its volume is removed again");
    restore_disk(*disk, *open_new_volume(volumes.path_of(name), disk->size(), volumes.read_as_zeros()), watched, limit);
  }
  volumes.keep();
  report(manifest, record, volumes.path_of(name).native(), "raw", begun, invocation.json);
  return ExitCode::success;
}

/// One disk, into an RBD image.
ExitCode restore_rbd(Repository& repository, const Manifest& manifest, const DiskRecord& record,
                     const RestoreOptions& options, RateLimit* limit, const Invocation& invocation) {
  const auto begun = SteadyClock::now();
  RbdPlace place = parse_rbd_pool(options.rbd, true);
  if (place.image.empty())
    place.image = volume_name(options.domain_name.empty() ? manifest.domain : options.domain_name, record.target);
  RbdImages images({.address = options.ceph.address(),
                    .layout = options.ceph.layout(),
                    .overwrite = options.overwrite,
                    .force = options.force});
  const auto disk = repository.open_disk(record.map);
  {
    const auto target = images.open(place, record);
    Progress progress(invocation.progress, STDERR_FILENO);
    WatchedProgress watched(progress.line(record.target), invocation.stop,
                            "stopped before the disk was complete: a new image is removed again");
    restore_disk(*disk, *target, watched, limit);
  }
  images.keep();
  report(manifest, record, "rbd:" + to_string(place), "raw", begun, invocation.json);
  return ExitCode::success;
}

ExitCode restore(const RestoreOptions& options, const Invocation& invocation) {
  check_options(options);
  if (!options.rbd.empty()) static_cast<void>(options.ceph.layout());
  Repository repository = invocation.open(Repository::Mode::read);
  const Manifest manifest = repository.load(options.name);
  const std::uint64_t rate = options.limit.empty() ? 0 : parse_size(options.limit);
  const auto limit = rate == 0 ? nullptr : std::make_unique<RateLimit>(rate, invocation.stop);
  if (options.disk.empty()) {
    const DomainRestore wanted{
        .in_place = options.in_place,
        .directory = options.to.empty() ? std::filesystem::path() : std::filesystem::absolute(options.to),
        .name = options.domain_name,
        .volume_group = options.volume_group,
        .thin_pool = options.thin_pool,
        .rbd = options.rbd.empty() ? std::nullopt : std::optional(parse_rbd_pool(options.rbd, false)),
        .images = {.address = options.ceph.address(),
                   .layout = options.ceph.layout(),
                   .overwrite = options.overwrite,
                   .force = options.force},
        .ceph_secret = options.secret,
        .define = options.define,
        .overwrite = options.overwrite};
    return restore_domain(repository, manifest, wanted, limit.get(), invocation);
  }
  const DiskRecord& record = choose_disk(manifest, options.disk);
  if (!options.volume_group.empty())
    return restore_volume(repository, manifest, record, options, limit.get(), invocation);
  if (!options.rbd.empty()) return restore_rbd(repository, manifest, record, options, limit.get(), invocation);
  const bool to_stdout = options.to == "-";
  const std::string format = format_of(options, record, to_stdout);
  if (to_stdout && invocation.json)
    throw UsageError("--json and a disk cannot share standard output", "write the disk to a file");
  if (to_stdout && ::isatty(STDOUT_FILENO) == 1)
    throw UsageError("a disk is nothing for a terminal", "redirect standard output, or name a file");
  const auto begun = SteadyClock::now();
  {
    Progress progress(invocation.progress, STDERR_FILENO);
    WatchedProgress watched(progress.line(record.target), invocation.stop, "stopped before the disk was complete");
    const auto disk = repository.open_disk(record.map);
    if (to_stdout) {
      restore_disk(*disk, *stream_target(STDOUT_FILENO, disk->size(), invocation.stop), watched, limit.get());
      return ExitCode::success;
    }
    restore_disk(*disk, options.to, format, options.overwrite, watched, limit.get());
  }
  report(manifest, record, options.to, format, begun, invocation.json);
  return ExitCode::success;
}

}  // namespace

RunVerb add_restore(CLI::App& parser) {
  const auto options = std::make_shared<RestoreOptions>();
  parser.add_option("NAME", options->name, "a still point, DOMAIN@latest or DOMAIN")->required();
  parser.add_option("--disk", options->disk, "only this disk, as 'stillpoint show' names it")->type_name("vda");
  parser
      .add_option(
          "--to", options->to,
          "a directory for all disks and the domain's definition; for one disk the image to make, a block device with "
          "--overwrite, or - for standard output")
      ->type_name("PATH");
  parser
      .add_option("--to-volume-group", options->volume_group,
                  "make the disks logical volumes of this group, named DOMAIN-TARGET; --to is for the definition then")
      ->type_name("VG");
  parser.add_option("--thin-pool", options->thin_pool, "make them in this thin pool of the group")->type_name("POOL");
  parser
      .add_option("--to-rbd", options->rbd,
                  "make the disks images of this pool of a Ceph cluster, named DOMAIN-TARGET, or one disk this image; "
                  "--to is for the definition then")
      ->type_name("POOL[/NAMESPACE][/IMAGE]");
  add_ceph_options(parser, options->ceph);
  parser.add_option("--ceph-secret", options->secret, "of libvirt, with that user's key: for the domain's definition")
      ->type_name("UUID");
  add_rbd_layout_options(parser, options->ceph);
  parser.add_flag("--force", options->force, "write over RBD images that are in use");
  parser.add_flag("--in-place", options->in_place, "replace the disks of the domain, which must be shut off");
  parser.add_flag("--define", options->define, "define the domain in libvirt, on the restored disks");
  parser.add_option("--name", options->domain_name, "make it a new domain: another name, UUID and MAC addresses")
      ->type_name("DOMAIN");
  parser.add_option("--format", options->format, "raw or qcow2 (as the disk was)")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"raw", "qcow2"}));
  parser.add_option("--limit", options->limit, "write so many bytes a second at most, as in 100M")->type_name("RATE");
  parser.add_flag("--overwrite", options->overwrite, "replace what is there");
  return [options](const Invocation& invocation) { return restore(*options, invocation); };
}

}  // namespace stillpoint
