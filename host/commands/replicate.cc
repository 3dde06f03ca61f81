// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/clock.hh"
#include "common/log.hh"
#include "common/rate-limit.hh"
#include "host/commands/command.hh"
#include "host/commands/format.hh"
#include "host/commands/output.hh"
#include "host/commands/rbd-options.hh"
#include "host/commands/replica-place.hh"
#include "host/commands/retention-options.hh"
#include "host/commands/watched-progress.hh"
#include "host/repository/repository.hh"
#include "host/restore/logical-volumes.hh"
#include "host/restore/replica.hh"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace stillpoint {

namespace {

struct ReplicateOptions {
  std::string name;
  std::string place;
  std::string image_name;
  std::string limit;
  RbdOptions ceph;
  RetentionOptions retention;
  bool full = false;
  bool verify = false;
  bool force_same_pool = false;
};

struct DiskOutcome {
  const DiskRecord* disk;
  RbdPlace image;
  ReplicatedDisk replicated;
  std::vector<Extent> damaged;
  ReplicaRetention retention;
  bool is_damaged = false;
};

std::string_view to_string(ReplicatedDisk::Mode mode) {
  switch (mode) {
    case ReplicatedDisk::Mode::full:
      return "full";
    case ReplicatedDisk::Mode::compared:
      return "compared";
    case ReplicatedDisk::Mode::differential:
      return "differential";
    case ReplicatedDisk::Mode::present:
      break;
  }
  return "present";
}

Json to_json(const DiskOutcome& outcome, bool verified) {
  Json kept = Json::array();
  for (const ReplicaRetention::Kept& it : outcome.retention.kept)
    kept.push_back({{"name", it.still_point}, {"reason", it.reason}});
  Json damaged = Json::array();
  for (const Extent& extent : outcome.damaged)
    damaged.push_back({{"offset", extent.offset}, {"length", extent.length}});
  const ReplicatedDisk& replicated = outcome.replicated;
  return {{"disk", outcome.disk->target},
          {"image", to_string(outcome.image)},
          {"mode", to_string(replicated.mode)},
          {"base", replicated.base.empty() ? Json(nullptr) : Json(replicated.base)},
          {"reason", replicated.reason},
          {"written", replicated.written.data},
          {"zeroed", replicated.written.zeros},
          {"read", replicated.read},
          {"verified", verified && !outcome.is_damaged},
          {"is_damaged", outcome.is_damaged},
          {"damaged", std::move(damaged)},
          {"removed", outcome.retention.removed},
          {"kept", std::move(kept)}};
}

std::string text_of(const DiskOutcome& outcome, const std::string& name, bool verified) {
  const ReplicatedDisk& replicated = outcome.replicated;
  std::string text;
  switch (replicated.mode) {
    case ReplicatedDisk::Mode::present:
      text = fmt::format("{} has {} already", to_string(outcome.image), printable(name));
      break;
    case ReplicatedDisk::Mode::differential:
      text = fmt::format("{}: {} written, what differs from {}", to_string(outcome.image),
                         format_size(replicated.written.data), printable(replicated.base));
      break;
    default:
      text = fmt::format("{}: {} written, for {}", to_string(outcome.image), format_size(replicated.written.data),
                         printable(replicated.reason));
  }
  if (outcome.is_damaged)
    text += verified ? "; it is NOT the still point" : "; it was NOT the still point when it was last read back";
  else if (verified)
    text += "; read back, it is the still point";
  text += '\n';
  for (const std::string& removed : outcome.retention.removed)
    text += fmt::format("  {} removed\n", printable(removed));
  for (const ReplicaRetention::Kept& kept : outcome.retention.kept)
    text += fmt::format("  {} kept: {}\n", printable(kept.still_point), printable(kept.reason));
  return text;
}

RbdPlace image_of(const Manifest& manifest, const ReplicateOptions& options, const ReplicaPlace& place,
                  const DiskRecord& disk) {
  RbdPlace image = place.pool;
  image.image = volume_name(options.image_name.empty() ? manifest.domain : options.image_name, disk.target);
  return image;
}

/// What is wrong with the request is said before anything is made.
void check_places(const Manifest& manifest, const ReplicateOptions& options, const ReplicaPlace& place,
                  const std::string& fsid) {
  for (const DiskRecord& disk : manifest.disks)
    check_rbd_name(image_of(manifest, options, place, disk));
  if (options.force_same_pool) return;
  for (const DiskRecord& disk : manifest.disks)
    if (const std::string why = shared_fate(disk, fsid, place.pool.pool); !why.empty())
      throw UsageError(why, "replicate into another pool, better of another cluster, or use --force-same-pool");
}

RbdLayout asked_layout(const ReplicateOptions& options) {
  const RbdLayout layout = options.ceph.layout();
  if (layout.features && (*layout.features & rbd_exclusive_lock) == 0)
    throw UsageError("a replica needs the feature exclusive-lock: it keeps a writer out that is taken for dead",
                     "add --image-feature exclusive-lock");
  if (layout.features && (*layout.features & rbd_layering) == 0)
    throw UsageError("a replica needs the feature layering: 'boot' clones it", "add --image-feature layering");
  return layout;
}

/// As its disk is laid out where nothing else is asked for, with what a replica needs.
RbdLayout replica_layout(const RbdLayout& asked, const DiskRecord& disk) {
  RbdLayout layout = completed(asked, disk.rbd ? disk.rbd->layout : RbdLayout());
  if (layout.features) *layout.features |= rbd_exclusive_lock | rbd_layering;
  return layout;
}

ExitCode replicate(const ReplicateOptions& options, const Invocation& invocation) {
  const auto begun = SteadyClock::now();
  const ReplicaPlace place = parse_replica_place(options.place, options.ceph.user);
  const RbdLayout asked = asked_layout(options);
  const RetentionPolicy policy = options.retention.policy();
  const std::uint64_t rate = options.limit.empty() ? 0 : parse_size(options.limit);
  const auto limit = rate == 0 ? nullptr : std::make_unique<RateLimit>(rate, invocation.stop);
  Repository repository = invocation.open(Repository::Mode::read);
  const Manifest manifest = repository.load(options.name);
  const auto cluster = connect_ceph(place.address);
  check_places(manifest, options, place, cluster->fsid());
  const std::shared_ptr<RbdPool> pool = cluster->rbd_pool(place.pool.pool, place.pool.name_space);
  std::vector<RbdLayout> layouts;
  for (const DiskRecord& disk : manifest.disks)
    layouts.push_back(replica_layout(asked, disk));
  std::vector<DiskOutcome> outcomes;
  std::vector<std::unique_ptr<Replica>> replicas;
  Progress progress(invocation.progress, STDERR_FILENO);
  for (const DiskRecord& disk : manifest.disks) {
    DiskOutcome& outcome =
        outcomes.emplace_back(DiskOutcome{&disk, image_of(manifest, options, place, disk), {}, {}, {}});
    replicas.push_back(
        std::make_unique<Replica>(pool, outcome.image, manifest.domain, disk.target, layouts[replicas.size()]));
    Replica& replica = *replicas.back();
    WatchedProgress watched(progress.line(disk.target), invocation.stop,
                            "stopped before the replica was complete: the next one goes on from here");
    outcome.replicated = replica.replicate(repository, manifest, disk, options.full, watched, limit.get());
    if (options.verify) outcome.damaged = replica.verify(repository, manifest, disk, watched);
    outcome.is_damaged = options.verify ? !outcome.damaged.empty() : outcome.replicated.damaged;
  }
  const bool damaged = std::ranges::any_of(outcomes, &DiskOutcome::is_damaged);
  // An older still point goes when all disks have the new one, each of them whole.
  for (std::size_t i = 0; i < replicas.size() && !damaged; ++i)
    outcomes[i].retention = replicas[i]->retain(policy);
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun);
  if (invocation.json) {
    Json disks = Json::array();
    for (const DiskOutcome& outcome : outcomes)
      disks.push_back(to_json(outcome, options.verify));
    print_json({{"name", manifest.name},
                {"cluster", cluster->fsid()},
                {"disks", std::move(disks)},
                {"took_us", took.count()}});
  } else {
    std::string text;
    for (const DiskOutcome& outcome : outcomes)
      text += text_of(outcome, manifest.name, options.verify);
    print_result(text + fmt::format("{} is in {}, in {}\n", printable(manifest.name),
                                    words_of(place.pool, cluster->fsid()), format_duration(took)));
  }
  if (!damaged) return ExitCode::success;
  log_error("the replica of {} is damaged", manifest.name);
  log_info("  remove its RBD snapshot (rbd snap rm), then replicate again with --full: what differs is written anew");
  return ExitCode::corruption;
}

}  // namespace

RunVerb add_replicate(CLI::App& parser) {
  const auto options = std::make_shared<ReplicateOptions>();
  parser.add_option("NAME", options->name, "a still point, DOMAIN@latest or DOMAIN")->required();
  parser
      .add_option("PLACE", options->place,
                  "rbd:POOL[/NAMESPACE][@CONF]: a pool, by the ceph.conf of its cluster ($CEPH_CONF, else "
                  "/etc/ceph/ceph.conf)")
      ->required();
  parser.add_option("--ceph-user", options->ceph.user, "who is let in, without \"client.\" (admin)")->type_name("ID");
  parser.add_option("--name", options->image_name, "call the images NAME-TARGET (DOMAIN-TARGET)")->type_name("NAME");
  parser.add_flag("--full", options->full, "compare all of the replica, not only what changed");
  parser.add_flag("--verify", options->verify, "read the replica's still point back, and compare it");
  parser.add_option("--limit", options->limit, "write so many bytes a second at most, as in 100M")->type_name("RATE");
  add_retention_options(parser, options->retention);
  add_rbd_layout_options(parser, options->ceph);
  parser.add_flag("--force-same-pool", options->force_same_pool, "also into the pool that the disks themselves lie in");
  return [options](const Invocation& invocation) { return replicate(*options, invocation); };
}

}  // namespace stillpoint
