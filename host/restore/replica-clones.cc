// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/replica-clones.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/json.hh"
#include "host/restore/replica-record.hh"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

namespace stillpoint {
namespace {

constexpr std::size_t longest_clone_list = 1 << 20;
/// A client that was killed is taken for one that still watches, for half a minute.
constexpr std::chrono::seconds clone_end_limit{45};
constexpr std::chrono::milliseconds clone_end_interval{500};

void remove_clone(RbdPool& pool, const RbdPlace& place) {
  const Deadline limit(clone_end_limit);
  for (;;) {
    try {
      return pool.remove(place.image);
    } catch (const CephError& error) {
      if (error.code() != EBUSY) throw;
      if (limit.passed())
        throw Locked(fmt::format("RBD image {} is in use", to_string(place)), "end what uses it, see rbd status");
    }
    std::this_thread::sleep_for(clone_end_interval);
  }
}

}  // namespace

ReplicaClones::ReplicaClones(const ReplicaToBoot& replica, const Manifest& manifest, const std::string& domain)
    : conf_(replica.conf), user_(replica.address.user) {
  const auto cluster = connect_ceph(replica.address);
  fsid_ = cluster->fsid();
  pool_ = cluster->rbd_pool(replica.pool.pool, replica.pool.name_space);
  // Names of their own: what is removed later is nobody else's.
  const std::string suffix = random_id().substr(0, 8);
  for (const DiskRecord& disk : manifest.disks) {
    Clone clone{.disk = disk.target, .parent = replica.pool, .snapshot = {}, .place = replica.pool};
    clone.parent.image = fmt::format("{}-{}", replica.images, disk.target);
    clone.place.image = fmt::format("{}-{}-{}", domain, disk.target, suffix);
    check_rbd_name(clone.parent);
    check_rbd_name(clone.place);
    const auto image = pool_->open(clone.parent.image, RbdAccess::read);
    const std::vector<ReplicaSnapshot> there = replica_snapshots(*image);
    const auto found = std::ranges::find(there, manifest.id, &ReplicaSnapshot::id);
    if (found == there.end())
      throw NotFound(fmt::format("the replica {} does not have {}", to_string(clone.parent), manifest.name),
                     there.empty() ? std::string("it has no still point")
                                   : fmt::format("its newest is {}", there.back().still_point));
    if (found->map.root != disk.map.root || found->map.size != disk.map.size)
      throw Corruption(fmt::format("snapshot {} of {} is not said to be disk {} of {}", found->snapshot,
                                   to_string(clone.parent), disk.target, manifest.name));
    if (found->damaged)
      throw Corruption(fmt::format("snapshot {} of {} is damaged: it was not {} when it was last read back",
                                   found->snapshot, to_string(clone.parent), manifest.name),
                       "boot another still point, or this one without --from-replica");
    clone.snapshot = found->snapshot;
    clones_.push_back(std::move(clone));
  }
}

void ReplicaClones::make(const std::filesystem::path& file) {
  Json images = Json::array();
  for (const Clone& clone : clones_)
    images.push_back(to_string(clone.place));
  replace_file(file, dump_json(Json{{"conf", conf_}, {"user", user_}, {"fsid", fsid_}, {"images", std::move(images)}}),
               0600);
  for (const Clone& clone : clones_)
    pool_->clone(clone.parent.image, clone.snapshot, *pool_, clone.place.image);
}

void remove_clones(const std::filesystem::path& file) {
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return;
  const Json json = parse_json(read_text(file, longest_clone_list), file.native());
  const auto cluster =
      connect_ceph({.conf = json_string(json, "conf"), .user = json_string(json, "user"), .key = {}, .monitors = {}});
  if (const std::string fsid = json_string_or(json, "fsid", cluster->fsid()); fsid != cluster->fsid())
    throw ConfigError(fmt::format("the clones that {} names are in Ceph cluster {}, and this is {}", file.native(),
                                  fsid, cluster->fsid()),
                      "see that its ceph.conf is the one that was used when they were made");
  for (const Json& name : json_array(json, "images")) {
    const RbdPlace place = parse_rbd_place(name.is_string() ? name.get<std::string>() : std::string());
    remove_clone(*cluster->rbd_pool(place.pool, place.name_space), place);
  }
  std::filesystem::remove(file);
}

}  // namespace stillpoint
