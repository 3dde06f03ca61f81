// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/boot.hh"

#include "common/clock.hh"
#include "host/commands/command.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/commands/rbd-options.hh"
#include "host/commands/replica-place.hh"
#include "host/commands/served-disk.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>

namespace stillpoint {

namespace {

struct BootOptions {
  std::string name;
  BootRequest request;
  std::string commit;
  std::string replica;  ///< rbd:POOL[/NAMESPACE][@CONF]
  std::string replica_name;
  std::string ceph_user;
  std::string ceph_secret;
  bool remove = false;
  bool resume = false;
};

constexpr const char* parent_directory = "/var/lib/stillpoint/boot";

BootRequest request_for(const BootOptions& options, const std::string& name) {
  BootRequest request = options.request;
  if (request.name.empty()) request.name = name;
  if (request.name.find('/') != std::string::npos)
    throw UsageError(fmt::format("'{}' is no domain's name", printable(request.name)));
  request.directory = request.directory.empty() ? std::filesystem::path(parent_directory) / request.name
                                                : std::filesystem::absolute(request.directory);
  return request;
}

ExitCode remove(const BootOptions& options, const Invocation& invocation) {
  Connection libvirt(invocation.libvirt_uri);
  const BootRequest request = request_for(options, options.name);
  remove_booted(libvirt, request);
  if (!invocation.json) print_result(fmt::format("removed {}\n", printable(request.name)));
  return ExitCode::success;
}

void commit(const Domain& domain, const Manifest& manifest, const BootRequest& request, const std::string& images,
            const Invocation& invocation) {
  Progress progress(invocation.progress, STDERR_FILENO);
  std::map<std::string, std::unique_ptr<CaptureProgress>> lines;
  commit_booted(
      domain, manifest, request, std::filesystem::absolute(images),
      [&](const std::string& disk, std::uint64_t done, std::uint64_t all) {
        std::unique_ptr<CaptureProgress>& line = lines[disk];
        if (!line) line = progress.line(disk);
        line->advance(done, all);
      },
      invocation.stop);
}

/// A domain that was booted: powered on again, or moved to images of its own, or both.
ExitCode resume(const BootOptions& options, const Invocation& invocation) {
  const auto begun = SteadyClock::now();
  const BootRequest request = request_for(options, options.name);
  const auto [access, manifest] = open_to_serve(invocation, booted_from(request));
  Connection libvirt(invocation.libvirt_uri);
  const Domain booted = booted_domain(libvirt, request);
  const bool was_running = booted.running();
  if (was_running && options.commit.empty())
    throw UsageError(fmt::format("{} runs", printable(request.name)), "its disks are served: there is nothing to do");
  if (!options.commit.empty() && is_on_clones(request))
    throw UsageError(
        fmt::format("the disks of {} are clones: there are no images to move it to", printable(request.name)),
        "rbd flatten makes them independent of the replica");
  if (!options.commit.empty()) {
    const std::filesystem::path images = std::filesystem::absolute(options.commit);
    end_interrupted_commit(booted, manifest, request, images);
    Manifest unmoved = manifest;
    unmoved.disks = unmoved_disks(booted, manifest, request);
    check_commit(unmoved, request, images);
  }
  const Domain domain = resume_booted(libvirt, manifest, access, request, invocation.stop);
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun);
  if (!options.commit.empty()) commit(domain, manifest, request, options.commit, invocation);
  if (invocation.json)
    print_json({{"name", manifest.name},
                {"domain", request.name},
                {"uuid", domain.uuid()},
                {"directory", options.commit.empty() ? Json(request.directory.native()) : Json(nullptr)},
                {"left_out", Json::array()},
                {"took_us", took.count()}});
  else if (!was_running)
    print_result(fmt::format("{} runs again as {}, started in {}\n", printable(manifest.name), printable(request.name),
                             format_duration(took)));
  if (!invocation.json && !options.commit.empty())
    print_result(fmt::format("{} has images of its own in {}\n", printable(request.name), printable(options.commit)));
  return ExitCode::success;
}

ExitCode boot_still_point(const BootOptions& options, const Invocation& invocation) {
  const auto begun = SteadyClock::now();
  std::vector<LoadedState> state;
  const auto [access, manifest] = open_to_serve(invocation, options.name, &state);
  BootRequest request = request_for(options, manifest.domain + "-boot");
  request.state = std::move(state);
  if (!options.replica.empty()) {
    const ReplicaPlace place = parse_replica_place(options.replica, options.ceph_user);
    request.replica = ReplicaToBoot{.address = place.address,
                                    .pool = place.pool,
                                    .images = options.replica_name.empty() ? manifest.domain : options.replica_name,
                                    .conf = conf_in_use(place.address),
                                    .secret = options.ceph_secret};
  } else if (!(options.replica_name + options.ceph_user + options.ceph_secret).empty()) {
    throw UsageError("something is said of a replica, and none is named", "name it with --from-replica");
  }
  if (!options.commit.empty()) {
    request.images = std::filesystem::absolute(options.commit);
    check_commit(manifest, request, request.images);
  }
  Connection libvirt(invocation.libvirt_uri);
  const Booted booted = boot(libvirt, manifest, access, request, invocation.stop);
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun);
  if (!invocation.json) {
    print_result(fmt::format("{} runs as {}{}, started in {}\n", printable(manifest.name), printable(request.name),
                             request.network ? "" : ", without network", format_duration(took)));
    for (const std::string& what : booted.left_out)
      print_result(fmt::format("  without {}\n", printable(what)));
  }
  if (!options.commit.empty()) commit(booted.domain, manifest, request, options.commit, invocation);
  if (invocation.json)
    print_json({{"name", manifest.name},
                {"domain", request.name},
                {"uuid", booted.domain.uuid()},
                {"directory", options.commit.empty() ? Json(request.directory.native()) : Json(nullptr)},
                {"left_out", booted.left_out},
                {"took_us", took.count()}});
  else if (options.commit.empty())
    print_result(fmt::format("  stillpoint boot --remove {} ends it\n", printable(request.name)));
  return ExitCode::success;
}

}  // namespace

RunVerb add_boot(CLI::App& parser) {
  const auto options = std::make_shared<BootOptions>();
  parser
      .add_option("NAME", options->name,
                  "a still point, DOMAIN@latest or DOMAIN; with --remove and --resume, the new domain")
      ->required();
  parser.add_option("--name", options->request.name, "of the new domain (DOMAIN-boot)")->type_name("DOMAIN");
  parser.add_flag("--network", options->request.network, "plug its network in: the first domain may still run");
  parser
      .add_option("--directory", options->request.directory,
                  "for its sockets and overlays (below " + std::string(parent_directory) + ")")
      ->type_name("DIR");
  parser.add_option("--commit", options->commit, "move it to images in this directory while it runs")->type_name("DIR");
  CLI::Option* const replica =
      parser
          .add_option("--from-replica", options->replica,
                      "on clones of its disks in this replica, see replicate: nothing of the repository is served")
          ->type_name("rbd:POOL[/NAMESPACE][@CONF]")
          ->excludes("--commit");
  parser.add_option("--replica-name", options->replica_name, "its images are called NAME-TARGET (DOMAIN-TARGET)")
      ->type_name("NAME");
  parser.add_option("--ceph-user", options->ceph_user, "who is let in there, without \"client.\" (admin)")
      ->type_name("ID");
  parser.add_option("--ceph-secret", options->ceph_secret, "of libvirt, with that user's key")->type_name("UUID");
  CLI::Option* const resumed = parser.add_flag("--resume", options->resume,
                                               "start a domain that was booted and powered off, or --commit it later");
  parser.add_flag("--remove", options->remove, "end a domain that was booted, and delete what it has written")
      ->excludes("--commit")
      ->excludes("--network")
      ->excludes(replica)
      ->excludes(resumed);
  resumed->excludes("--network")->excludes("--name")->excludes(replica);
  return [options](const Invocation& invocation) {
    if (options->resume) return resume(*options, invocation);
    return options->remove ? remove(*options, invocation) : boot_still_point(*options, invocation);
  };
}

}  // namespace stillpoint
