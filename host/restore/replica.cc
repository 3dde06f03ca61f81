// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/replica.hh"

#include "common/errors.hh"
#include "common/log.hh"
#include "common/test-pause.hh"
#include "host/capture/rbd-disk.hh"
#include "host/repository/retention.hh"
#include "host/repository/still-point-name.hh"
#include "host/restore/rbd-writer.hh"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

namespace stillpoint {
namespace {

/// Bounds what one question about changes may find.
constexpr std::uint64_t change_window = std::uint64_t{16} << 30;

void add_joined(std::vector<Extent>& extents, const Extent& extent) {
  if (!extents.empty() && extents.back().offset + extents.back().length >= extent.offset)
    extents.back().length =
        std::max(extents.back().offset + extents.back().length, extent.offset + extent.length) - extents.back().offset;
  else
    extents.push_back(extent);
}

/// What the disk has in these ranges.
void tell_content(BlockReader& disk, const std::vector<Extent>& ranges,
                  const std::function<void(const Extent&)>& consume) {
  for (const Extent& range : ranges)
    for (std::uint64_t at = range.offset, end = range.offset + range.length; at < end;)
      for (const Extent& extent : disk.extents(at, end - at)) {
        consume(extent);
        at = extent.offset + extent.length;
      }
}

/// Counts, and passes on.
class ReadCount : public CaptureProgress {
 public:
  ReadCount(CaptureProgress& inner, std::uint64_t& read) : inner_(inner), read_(read) {}
  void advance(std::uint64_t done, std::uint64_t total) override {
    read_ = done;
    inner_.advance(done, total);
  }

 private:
  CaptureProgress& inner_;
  std::uint64_t& read_;
};

}  // namespace

class Replica::Target : public DiskTarget {
 public:
  Target(RbdImage& image, RbdLock& lock, bool sparse) : image_(image), lock_(lock), sparse_(sparse) {}

  void write(std::span<const Piece> pieces) override {
    lock_.check();
    as_storage_error([&] { write_to_rbd(image_, pieces, sparse_); });
    pause_for_test("replica-write");
  }
  void zero(std::uint64_t offset, std::uint64_t length) override {
    lock_.check();
    as_storage_error([&] { zero_in_rbd(image_, offset, length); });
  }
  void complete() override {
    as_storage_error([&] { image_.flush(); });
    lock_.check();
  }

 private:
  RbdImage& image_;
  RbdLock& lock_;
  bool sparse_;
};

Replica::Replica(std::shared_ptr<RbdPool> pool, const RbdPlace& place, const std::string& domain,
                 const std::string& disk, const RbdLayout& layout)
    : pool_(std::move(pool)), place_(place) {
  if (!pool_->has(place.image)) make(domain, disk, layout);
  // Before we are among them.
  const std::vector<std::string> users = pool_->open(place.image, RbdAccess::read)->living_watchers();
  image_ = pool_->open(place.image, RbdAccess::write);
  const std::optional<ReplicaMark> mark = replica_mark(*image_);
  if (!mark || mark->domain != domain || mark->disk != disk)
    throw UsageError(
        mark ? fmt::format("RBD image {} is the replica of {} of {}", to_string(place), mark->disk, mark->domain)
             : fmt::format("there is an RBD image {}, which is no replica", to_string(place)),
        "use another pool or namespace, or call the images otherwise with --name");
  lock_ = image_->lock();
  if (!users.empty())
    throw Locked(fmt::format("RBD image {} is in use, from {}", to_string(place), fmt::join(users, ", ")),
                 "end what uses it, see rbd status; one that has died is told for half a minute");
  as_storage_error([this] { image_->keep_writers_out(); });
  resume_snapshot(*image_);
}

Replica::~Replica() = default;

void Replica::make(const std::string& domain, const std::string& disk, const RbdLayout& layout) {
  // Nobody takes it for a replica, or for none, before it has its mark.
  const std::string unmarked = fmt::format("{}.{}.partial", place_.image, random_id().substr(0, 8));
  try {
    pool_->create(unmarked, layout);
    mark_replica(*pool_->open(unmarked, RbdAccess::write), domain, disk);
    pool_->rename(unmarked, place_.image);
  } catch (...) {
    try {
      pool_->remove(unmarked);
    } catch (const std::exception& error) {
      log_warning("{}", error.what());
    }
    throw;
  }
  is_new_ = true;
}

ReplicatedDisk Replica::replicate(Repository& repository, const Manifest& manifest, const DiskRecord& disk, bool full,
                                  CaptureProgress& progress, RateLimit* limit) {
  const std::vector<ReplicaSnapshot> there = replica_snapshots(*image_);
  ReplicatedDisk result;
  if (const auto same = std::ranges::find(there, manifest.id, &ReplicaSnapshot::id); same != there.end()) {
    result.mode = ReplicatedDisk::Mode::present;
    result.damaged = same->damaged;
    return result;
  }
  const ReplicaSnapshot* const newest = there.empty() ? nullptr : &there.back();
  if (newest != nullptr && newest->instant >= manifest.instant)
    throw UsageError(fmt::format("{} is older than {}, which RBD image {} has already", manifest.name,
                                 newest->still_point, to_string(place_)),
                     "an RBD snapshot cannot be put before another: replicate into another pool or namespace");
  ReplicaSnapshot record{.snapshot = parse_still_point_name(manifest.name).time,
                         .snapshot_id = 0,
                         .still_point = manifest.name,
                         .id = manifest.id,
                         .repository = repository.id(),
                         .instant = manifest.instant,
                         .map = disk.map};
  for (const RbdSnapshot& snapshot : image_->snapshots())
    if (snapshot.name == record.snapshot)
      throw UsageError(fmt::format("RBD image {} has another snapshot {}", to_string(place_), snapshot.name),
                       "somebody else has taken it: rename or remove it");
  const ReplicaSnapshot* base = nullptr;
  if (is_new_)
    result.reason = "the image is new";
  else if (newest == nullptr)
    result.reason = "the replica has no still point yet";
  else if (full)
    result.reason = "so it was asked for";
  else if (newest->damaged)
    result.reason = fmt::format("{} is damaged there", newest->still_point);
  else if (newest->repository != repository.id())
    result.reason = fmt::format("{} came from another repository", newest->still_point);
  else if (!repository.contains(newest->still_point) || repository.load(newest->still_point).id != newest->id)
    result.reason = fmt::format("the repository has {} no more", newest->still_point);
  else
    base = newest;
  as_storage_error([&] {
    if (image_->size() != disk.map.size) image_->resize(disk.map.size);
  });
  write(repository, disk, base, result, progress, limit);
  take_replica_snapshot(*image_, *lock_, std::move(record));
  is_new_ = false;
  return result;
}

void Replica::write(Repository& repository, const DiskRecord& disk, const ReplicaSnapshot* base, ReplicatedDisk& result,
                    CaptureProgress& progress, RateLimit* limit) {
  const auto content = repository.open_disk(disk.map);
  Target target(*image_, *lock_, is_new_);
  if (is_new_) {
    result.mode = ReplicatedDisk::Mode::full;
    result.written = fill_target(*content, target, progress, limit);
    // Nothing was there.
    result.written.zeros = 0;
  } else if (base == nullptr) {
    result.mode = ReplicatedDisk::Mode::compared;
    RbdDisk head(pool_->open(place_.image, RbdAccess::read), 0);
    ReadCount count(progress, result.read);
    result.written = write_ranges(
        *content, target, [&](const auto& consume) { repository.check_copy(disk.map, head, count, consume); }, 0,
        progress, limit);
  } else {
    result.mode = ReplicatedDisk::Mode::differential;
    result.base = base->still_point;
    // What an interrupted replication, or anybody else, has written since the snapshot: asked before we write.
    const std::vector<Extent> strays = written_since(*base);
    result.written = write_ranges(
        *content, target, [&](const auto& consume) { repository.compare_disks(base->map, disk.map, consume); }, 0,
        progress, limit);
    const WrittenRanges more = write_ranges(
        *content, target, [&](const auto& consume) { tell_content(*content, strays, consume); }, 0, progress, limit);
    result.written.data += more.data;
    result.written.zeros += more.zeros;
  }
  target.complete();
}

std::vector<Extent> Replica::written_since(const ReplicaSnapshot& base) {
  std::vector<Extent> extents;
  const std::uint64_t size = image_->size();
  // By the objects' own histories: object maps are wrong when somebody has rolled the image back.
  for (std::uint64_t at = 0; at < size; at += change_window)
    for (const RbdChange& change : image_->changed(base.snapshot, at, std::min(size - at, change_window), false))
      add_joined(extents, {change.offset, std::min(change.length, size - change.offset), true});
  return extents;
}

std::vector<Extent> Replica::verify(Repository& repository, const Manifest& manifest, const DiskRecord& disk,
                                    CaptureProgress& progress) {
  const std::vector<ReplicaSnapshot> there = replica_snapshots(*image_);
  const auto found = std::ranges::find(there, manifest.id, &ReplicaSnapshot::id);
  if (found == there.end())
    throw NotFound(fmt::format("RBD image {} does not have {}", to_string(place_), manifest.name));
  if (found->map.size != disk.map.size || found->map.root != disk.map.root)
    throw Corruption(fmt::format("snapshot {} of RBD image {} is not said to be disk {} of {}", found->snapshot,
                                 to_string(place_), disk.target, manifest.name));
  RbdDisk copy(pool_->open(place_.image, RbdAccess::read), found->snapshot_id);
  std::vector<Extent> damaged;
  repository.check_copy(disk.map, copy, progress, [&](const Extent& extent) { add_joined(damaged, extent); });
  if (found->damaged != !damaged.empty()) {
    lock_->check();
    record_damage(*image_, *found, !damaged.empty());
  }
  return damaged;
}

ReplicaRetention Replica::retain(const RetentionPolicy& policy) {
  ReplicaRetention result;
  if (policy.empty()) return result;
  std::vector<ReplicaSnapshot> there = replica_snapshots(*image_);
  // What is left of one may be all that there is.
  std::erase_if(there, [&](const ReplicaSnapshot& snapshot) {
    if (snapshot.damaged) result.kept.push_back({snapshot.still_point, "it is damaged"});
    return snapshot.damaged;
  });
  std::vector<RetainedStillPoint> rows;
  for (const ReplicaSnapshot& snapshot : there)
    rows.push_back({.name = snapshot.still_point, .instant = snapshot.instant, .is_protected = false, .kept_by = {}});
  apply_retention(policy, rows);
  const auto clone_reader = pool_->open(place_.image, RbdAccess::read);
  for (std::size_t i = 0; i + 1 < there.size(); ++i) {
    if (!rows[i].kept_by.empty()) continue;
    lock_->check();
    clone_reader->look_at(there[i].snapshot_id);
    if (const std::vector<RbdPlace> clones = clone_reader->clones(); !clones.empty()) {
      result.kept.push_back({there[i].still_point, fmt::format("{} is a clone of it", to_string(clones.front()))});
      continue;
    }
    try {
      remove_replica_snapshot(*image_, there[i]);
      result.removed.push_back(there[i].still_point);
    } catch (const CephError& error) {
      if (error.code() != EBUSY) throw;
      result.kept.push_back({there[i].still_point, "its RBD snapshot is protected"});
    }
  }
  return result;
}

std::string shared_fate(const DiskRecord& disk, const std::string& fsid, const std::string& pool) {
  constexpr std::string_view prefix = "rbd:";
  if (!disk.source.starts_with(prefix) || (disk.rbd && disk.rbd->cluster != fsid)) return {};
  const std::string theirs = disk.source.substr(prefix.size(), disk.source.find('/') - prefix.size());
  if (theirs != pool) return {};
  return fmt::format("disk {} itself lies in pool {}{}: what destroys one destroys both", disk.target, pool,
                     disk.rbd ? fmt::format(" of cluster {}", fsid) : std::string());
}

}  // namespace stillpoint
