// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/rbd-instant.hh"

#include "common/errors.hh"
#include "common/log.hh"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace stillpoint {
namespace {

constexpr const char* group_snapshot = "instant";

bool can_be_rolled_back_to(const RbdSnapshot& snapshot) {
  return snapshot.kind != RbdSnapshot::Kind::trash;
}

}  // namespace

struct RbdInstant::Cluster {
  CephAddress address;
  std::shared_ptr<CephCluster> connection;
  std::vector<std::unique_ptr<RbdPool>> group_pools{};  ///< where our groups are
};

struct RbdInstant::Disk {
  RbdSource source;
  Cluster& cluster;
  std::unique_ptr<RbdPool> pool;
  std::unique_ptr<RbdImage> image;  ///< for snapshots
  RbdFacts facts;
  std::optional<RbdDisk::Base> changes_since{};
  bool in_our_group = false;
  std::uint64_t base_id = 0;  ///< of the snapshot that it is compared with; 0: none
  std::uint64_t instant = 0;  ///< id of the snapshot that is read
  RbdBase next{};
};

/// Requests that are made at once, each in a thread. Whoever no longer waits finds them ended in the destructor: each
/// request has its own limit.
class RbdInstant::Taking {
 public:
  explicit Taking(const std::vector<std::function<void()>>& requests) : left_(requests.size()) {
    for (const auto& request : requests)
      threads_.emplace_back([this, request] { run(request); });
  }

  /// False when it takes longer. Throws what a request threw.
  bool wait(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    const auto over = [this] { return left_ == 0 || failure_; };
    if (!done_.wait_for(lock, limit, over)) return false;
    if (failure_) std::rethrow_exception(failure_);
    return true;
  }

  /// Waits for all of them. True when one was left to itself: it may yet be done.
  bool left_one() {
    threads_.clear();
    return left_one_;
  }

 private:
  void run(const std::function<void()>& request) noexcept {
    std::exception_ptr failure;
    bool is_late = false;
    try {
      request();
    } catch (const CephError& e) {
      failure = std::current_exception();
      is_late = e.code() == ETIMEDOUT;
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    left_one_ = left_one_ || is_late;
    if (failure && !failure_) failure_ = failure;
    --left_;
    done_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable done_;
  std::size_t left_;
  std::exception_ptr failure_;
  bool left_one_ = false;
  std::vector<std::jthread> threads_;
};

/// What cannot be removed now the next still point removes; a cluster that does not answer is not asked on.
class RbdInstant::Tidying {
 public:
  template <typename Step>
  void attempt(const Step& step) noexcept {
    if (!answers_) return;
    try {
      step();
    } catch (const std::exception& e) {
      const auto* const error = dynamic_cast<const Error*>(&e);
      answers_ = error == nullptr || error->exit_code() != ExitCode::unreachable;
      log_warning("something that is not needed stays in the Ceph cluster until the next still point: {}", e.what());
    }
  }

 private:
  bool answers_ = true;
};

RbdInstant::RbdInstant(const std::vector<RbdSource>& sources, const std::string& prefix, const std::string& domain,
                       const std::string& id)
    : prefix_(prefix), group_(prefix + domain + "." + id), snapshot_(prefix + id), domain_(domain) {
  for (const RbdSource& source : sources) {
    auto cluster = std::find_if(clusters_.begin(), clusters_.end(),
                                [&](const auto& known) { return known->address == source.address; });
    if (cluster == clusters_.end()) {
      clusters_.push_back(std::make_unique<Cluster>(Cluster{source.address, connect_ceph(source.address)}));
      cluster = std::prev(clusters_.end());
    }
    auto pool = (*cluster)->connection->rbd_pool(source.place.pool, source.place.name_space);
    auto image = pool->open(source.place.image, RbdAccess::write);
    RbdFacts facts = image->facts();
    if (facts.migrating)
      throw CaptureError(fmt::format("RBD image {} is being migrated", to_string(source.place)),
                         "wait for rbd migration commit, or leave the disk out");
    if (facts.secondary)
      throw CaptureError(fmt::format("RBD image {} is the secondary of a mirror", to_string(source.place)),
                         "back up the primary, or promote this one first (rbd mirror image promote)");
    disks_.push_back(
        std::make_unique<Disk>(Disk{source, **cluster, std::move(pool), std::move(image), std::move(facts)}));
    check_base(*disks_.back());
  }
  for (const auto& disk : disks_)
    disk->source.address.key.clear();
  for (const auto& cluster : clusters_)
    cluster->address.key.clear();
}

RbdInstant::~RbdInstant() {
  const bool is_late = taking_ && taking_->left_one();
  taking_.reset();
  if (kept_) return;
  // Of a snapshot that comes later the next still point finds the group: without it nobody could remove it.
  if (is_late)
    log_warning("a failed still point stays in the Ceph cluster until the next one: the cluster does not answer");
  else
    undo();
}

/// Decides whether what changed since the base can be told, and by what.
void RbdInstant::check_base(Disk& disk) const {
  RbdSource& source = disk.source;
  if (!source.base) return;
  const RbdBase& base = *source.base;
  const auto refuse = [&](std::string reason) {
    source.full_reason = std::move(reason);
    source.base.reset();
  };
  if (base.cluster != disk.cluster.connection->fsid()) return refuse("the image lies in another cluster than before");
  if (base.image_id != disk.facts.id) return refuse("another image has the name now");
  const std::vector<RbdSnapshot> snapshots = disk.image->snapshots();
  const auto found = std::find_if(snapshots.begin(), snapshots.end(), [&](const RbdSnapshot& snapshot) {
    return snapshot.id == base.snapshot_id && snapshot.name == base.snapshot &&
           snapshot.kind == RbdSnapshot::Kind::user;
  });
  if (found == snapshots.end()) return refuse("the snapshot of the previous still point is gone");
  if (disk.facts.layout.size != source.base_size || found->size != source.base_size)
    return refuse("the image was resized");
  const bool has_older = std::any_of(snapshots.begin(), found, can_be_rolled_back_to);
  disk.changes_since =
      RbdDisk::Base{base.snapshot, disk.facts.fast_diff && !base.had_older && !has_older, base.between};
  disk.base_id = base.snapshot_id;
}

/// What a run that was killed has left: there is no other of this domain beside ours.
void RbdInstant::remove_stale_groups() {
  const std::string ours = prefix_ + domain_ + ".";
  std::set<std::tuple<const Cluster*, std::string, std::string>> seen;
  for (const auto& disk : disks_) {
    if (!seen.emplace(&disk->cluster, disk->source.place.pool, disk->source.place.name_space).second) continue;
    for (const std::string& group : disk->pool->groups())
      if (group.starts_with(ours)) disk->pool->remove_group(group);
  }
  for (const auto& disk : disks_)
    if (disk->facts.group.starts_with(ours)) disk->facts = disk->image->facts();
}

/// Images that are in no group of the operator's get one of ours: Ceph has one for images of one namespace, whatever
/// their pools are.
void RbdInstant::make_groups() {
  remove_stale_groups();
  std::map<std::pair<Cluster*, std::string>, std::vector<Disk*>> together;
  for (const auto& disk : disks_)
    if (disk->facts.group.empty()) together[{&disk->cluster, disk->source.place.name_space}].push_back(disk.get());
  for (const auto& [where, members] : together) {
    if (members.size() < 2) continue;
    const RbdPlace& first = members.front()->source.place;
    auto& pool = where.first->group_pools.emplace_back(where.first->connection->rbd_pool(first.pool, first.name_space));
    pool->create_group(group_);
    for (Disk* member : members) {
      pool->add_to_group(group_, *member->pool, member->source.place.image);
      member->in_our_group = true;
    }
  }
}

void RbdInstant::take_snapshot(Disk& disk) const {
  disk.cluster.connection->check_monitors();
  disk.image->create_snapshot(snapshot_);
}

void RbdInstant::prepare(std::chrono::milliseconds limit) {
  std::vector<std::function<void()>> requests;
  for (const auto& disk : disks_)
    if (disk->in_our_group) requests.push_back([&disk = *disk, this] { take_snapshot(disk); });
  if (requests.empty()) return;
  taking_ = std::make_unique<Taking>(requests);
  wait(limit);
}

void RbdInstant::start() {
  std::vector<std::function<void()>> requests;
  for (const auto& cluster : clusters_)
    for (const auto& pool : cluster->group_pools)
      requests.push_back([&connection = *cluster->connection, &pool = *pool, this] {
        connection.check_monitors();
        pool.snapshot_group(group_, group_snapshot);
      });
  for (const auto& disk : disks_)
    if (!disk->in_our_group) requests.push_back([&disk = *disk, this] { take_snapshot(disk); });
  taking_ = std::make_unique<Taking>(requests);
}

void RbdInstant::wait(std::chrono::milliseconds limit) {
  if (!taking_->wait(limit))
    throw CaptureError(fmt::format("the Ceph cluster did not take the RBD snapshots within {} s",
                                   std::chrono::duration_cast<std::chrono::seconds>(limit).count()),
                       look_at_cluster);
  taking_.reset();
}

bool RbdInstant::is_atomic() const noexcept {
  std::size_t groups = 0;
  for (const auto& cluster : clusters_)
    groups += cluster->group_pools.size();
  return disks_.size() <= 1 || (groups == 1 && std::all_of(disks_.begin(), disks_.end(), [](const auto& disk) {
                                  // Without its lock nobody keeps an image's writer waiting.
                                  return disk->in_our_group && disk->facts.exclusive_lock;
                                }));
}

/// What was written between base and instant may be discarded until the next still point, and a comparison with the
/// base would not tell: it is neither here nor there.
void RbdInstant::learn_between(Disk& disk) const {
  disk.image->look_at(disk.instant);
  std::vector<RbdBase::Range> ranges;
  for (const RbdChange& change : disk.image->changed(snapshot_, 0, disk.image->size(), true)) {
    const std::uint64_t end = change.offset + change.length;
    if (!ranges.empty() && change.offset <= ranges.back().offset + ranges.back().length)
      ranges.back().length = std::max(ranges.back().length, end - ranges.back().offset);
    else
      ranges.push_back({change.offset, change.length});
  }
  disk.image->look_at(0);
  // A guest that wrote all over the disk in a moment: the ranges between are read once more, too.
  while (ranges.size() > max_rbd_ranges) {
    std::vector<RbdBase::Range> fewer;
    for (std::size_t i = 0; i < ranges.size(); i += 2) {
      const RbdBase::Range& last = ranges[std::min(i + 1, ranges.size() - 1)];
      fewer.push_back({ranges[i].offset, last.offset + last.length - ranges[i].offset});
    }
    ranges = std::move(fewer);
  }
  disk.next.between = std::move(ranges);
}

void RbdInstant::check() const {
  for (const auto& disk : disks_) {
    const std::vector<RbdSnapshot> snapshots = disk->image->snapshots();
    for (const std::uint64_t needed : {disk->instant, disk->base_id})
      if (needed != 0 && std::ranges::find(snapshots, needed, &RbdSnapshot::id) == snapshots.end())
        throw CaptureError(
            fmt::format("a snapshot of RBD image {} was removed while it was read", to_string(disk->source.place)),
            "do not remove snapshots named stillpoint.* while a backup runs; try again");
  }
}

void RbdInstant::settle() {
  for (const auto& disk : disks_) {
    RbdBase& next = disk->next;
    next = {disk->cluster.connection->fsid(), disk->facts.id, snapshot_};
    next.layout = disk->facts.layout;
    next.layout.size = 0;
    std::vector<RbdSnapshot> snapshots = disk->image->snapshots();
    for (const RbdSnapshot& snapshot : snapshots) {
      if (snapshot.kind == RbdSnapshot::Kind::user && snapshot.name == snapshot_) next.snapshot_id = snapshot.id;
      if (snapshot.kind == RbdSnapshot::Kind::group && snapshot.group == group_) disk->instant = snapshot.id;
    }
    if (!disk->in_our_group) disk->instant = next.snapshot_id;
    if (disk->instant == 0 || next.snapshot_id == 0)
      throw CaptureError(
          fmt::format("the snapshot of RBD image {} was removed just now", to_string(disk->source.place)), "try again");
    if (disk->in_our_group) learn_between(*disk);
    // Those of our own are removed at the end.
    next.had_older = std::any_of(snapshots.begin(), snapshots.end(), [&](const RbdSnapshot& snapshot) {
      return snapshot.id < next.snapshot_id && can_be_rolled_back_to(snapshot) && !snapshot.name.starts_with(prefix_);
    });
  }
}

const RbdInstant::Disk& RbdInstant::disk(const std::string& target) const {
  const auto found =
      std::find_if(disks_.begin(), disks_.end(), [&](const auto& disk) { return disk->source.target == target; });
  if (found == disks_.end()) throw std::logic_error("no RBD disk " + target);
  return **found;
}

const std::string& RbdInstant::full_reason(const std::string& target) const {
  return disk(target).source.full_reason;
}

RbdBase RbdInstant::next_base(const std::string& target) const {
  return disk(target).next;
}

std::unique_ptr<QueuedReader> RbdInstant::open(const std::string& target) const {
  const Disk& found = disk(target);
  const RbdPlace& place = found.source.place;
  try {
    const auto pool = found.cluster.connection->rbd_pool(place.pool, place.name_space);
    return std::make_unique<RbdDisk>(pool->open(place.image, RbdAccess::read), found.instant, found.changes_since);
  } catch (const CephError& e) {
    throw CaptureError(e.what(), e.hint());
  }
}

void RbdInstant::keep() noexcept {
  kept_ = true;
  tidy([this](Disk& disk) {
    for (const RbdSnapshot& snapshot : disk.image->snapshots())
      if (snapshot.kind == RbdSnapshot::Kind::user && snapshot.name.starts_with(prefix_) && snapshot.name != snapshot_)
        disk.image->remove_snapshot(snapshot.name);
  });
}

void RbdInstant::undo() noexcept {
  tidy([this](Disk& disk) { disk.image->remove_snapshot(snapshot_); });
}

void RbdInstant::tidy(const std::function<void(Disk& disk)>& remove_snapshots) noexcept {
  for (const auto& cluster : clusters_) {
    Tidying tidying;
    tidying.attempt([&] { cluster->connection->check_monitors(); });
    for (const auto& pool : cluster->group_pools)
      tidying.attempt([&] { pool->remove_group(group_); });
    for (const auto& disk : disks_)
      if (&disk->cluster == cluster.get()) tidying.attempt([&] { remove_snapshots(*disk); });
  }
}

}  // namespace stillpoint
