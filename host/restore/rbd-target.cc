// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/rbd-target.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "host/restore/rbd-writer.hh"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace stillpoint {
namespace {

class RbdTarget : public DiskTarget {
 public:
  /// `name`: what a new image is called in the end; null for one that was there. `place` follows it.
  RbdTarget(std::shared_ptr<RbdPool> pool, std::shared_ptr<RbdPlace> place, std::unique_ptr<RbdImage> image,
            std::uint64_t size, std::string name)
      : pool_(std::move(pool)),
        place_(std::move(place)),
        image_(std::move(image)),
        size_(size),
        name_(std::move(name)) {}

  void write(std::span<const Piece> pieces) override {
    as_storage_error([&] {
      begin();
      write_to_rbd(*image_, pieces, is_new());
    });
  }

  void zero(std::uint64_t offset, std::uint64_t length) override {
    if (is_new()) return;
    as_storage_error([&] {
      begin();
      zero_in_rbd(*image_, offset, length);
    });
  }

  void complete() override {
    as_storage_error([&] {
      begin();
      image_->flush();
      image_.reset();
      if (!is_new()) return;
      pool_->rename(place_->image, name_);
      place_->image = name_;
    });
  }

 private:
  [[nodiscard]] bool is_new() const noexcept { return !name_.empty(); }

  void begin() {
    if (is_new() || begun_) return;
    begun_ = true;
    if (image_->size() != size_) image_->resize(size_);
  }

  std::shared_ptr<RbdPool> pool_;
  std::shared_ptr<RbdPlace> place_;
  std::unique_ptr<RbdImage> image_;
  std::uint64_t size_;
  std::string name_;
  bool begun_ = false;
};

}  // namespace

RbdImages::RbdImages(RbdRestore wanted) : wanted_(std::move(wanted)), cluster_(connect_ceph(wanted_.address)) {}

RbdImages::~RbdImages() {
  for (const std::shared_ptr<RbdPlace>& place : made_) {
    try {
      pool_of(*place)->remove(place->image);
    } catch (const std::exception& error) {
      log_warning("RBD image {} is left: {}", to_string(*place), error.what());
    }
  }
}

const std::shared_ptr<RbdPool>& RbdImages::pool_of(const RbdPlace& place) {
  std::shared_ptr<RbdPool>& pool = pools_[{place.pool, place.name_space}];
  if (!pool) pool = cluster_->rbd_pool(place.pool, place.name_space);
  return pool;
}

void RbdImages::check(const RbdPlace& place) {
  check_rbd_name(place);
  const std::shared_ptr<RbdPool>& pool = pool_of(place);
  if (!pool->has(place.image)) return;
  if (!wanted_.overwrite)
    throw UsageError(fmt::format("there is an RBD image {} already", to_string(place)),
                     "name another one, or use --overwrite");
  const std::vector<std::string> users = pool->open(place.image, RbdAccess::read)->watchers();
  if (!users.empty() && !wanted_.force)
    throw Locked(
        fmt::format("RBD image {} is in use, from {}", to_string(place), fmt::join(users, ", ")),
        "end what uses it, see rbd status; one that has died is told for half a minute; --force writes anyway");
}

std::unique_ptr<DiskTarget> RbdImages::open(const RbdPlace& place, const DiskRecord& disk) {
  const std::uint64_t size = disk.map.size;
  check(place);
  const std::shared_ptr<RbdPool>& pool = pool_of(place);
  const auto now = std::make_shared<RbdPlace>(place);
  if (pool->has(place.image)) {
    std::unique_ptr<RbdImage> image = pool->open(place.image, RbdAccess::write);
    as_storage_error([&] { image->keep_writers_out(); });
    return std::make_unique<RbdTarget>(pool, now, std::move(image), size, "");
  }
  now->image = fmt::format("{}.{}.partial", place.image, random_id().substr(0, 8));
  RbdLayout layout = completed(wanted_.layout, disk.rbd ? disk.rbd->layout : RbdLayout());
  layout.size = size;
  made_.push_back(now);
  as_storage_error([&] { pool->create(now->image, layout); });
  std::unique_ptr<RbdImage> image = pool->open(now->image, RbdAccess::write);
  as_storage_error([&] { image->keep_writers_out(); });
  return std::make_unique<RbdTarget>(pool, now, std::move(image), size, place.image);
}

}  // namespace stillpoint
