// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/rbd-disk.hh"

#include "common/errors.hh"
#include "host/ceph/cluster.hh"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace stillpoint {
namespace {

/// Object maps are read whole for every question, so there are few; and each may make us remember half as many ranges.
constexpr std::uint64_t objects_at_once = 524288;
/// Asking objects for their history takes a request each, several at a time within a question: a short way over
/// objects that did not change costs less than a question of its own.
constexpr std::uint64_t least_gap_objects = 16;
/// Bounds what one question makes us remember.
constexpr std::uint64_t most_bytes_asked = std::uint64_t{1} << 30;
constexpr std::chrono::milliseconds look_again{1000};

/// What goes wrong with an open image is a disk that cannot be read.
template <typename Call>
auto ask_image(const Call& call) -> decltype(call()) {
  try {
    return call();
  } catch (const CephError& e) {
    throw CaptureError(e.what(), e.hint());
  } catch (const NotFound& e) {
    throw CaptureError(e.what(), "it was removed while it was read: try again");
  }
}

}  // namespace

RbdDisk::RbdDisk(std::unique_ptr<RbdImage> image, std::uint64_t snapshot, std::optional<Base> base)
    : image_(std::move(image)), base_(std::move(base)) {
  ask_image([&] {
    image_->look_at(snapshot);
    size_ = image_->size();
    const RbdFacts facts = image_->facts();
    object_size_ = std::uint64_t{1} << facts.layout.order;
    has_object_maps_ = facts.fast_diff;
  });
}

RbdDisk::~RbdDisk() = default;

void RbdDisk::check_range(std::uint64_t offset, std::uint64_t length) const {
  if (offset > size_ || length > size_ - offset)
    throw CaptureError(fmt::format("RBD image {}: {} bytes at {} lie outside its {} bytes", to_string(image_->place()),
                                   length, offset, size_));
}

void RbdDisk::pread(std::span<std::byte> buffer, std::uint64_t offset) {
  const Request request{offset, buffer};
  pread_many({&request, 1});
}

void RbdDisk::pread_many(std::span<const Request> requests) {
  if (reads_in_flight() != 0) throw std::logic_error("pread_many() beside reads in flight");
  try {
    for (const Request& request : requests)
      start_read(request.buffer, request.offset, 0);
    while (reads_in_flight() > 0)
      static_cast<void>(next_read(look_again));
  } catch (...) {
    abandon();  // the buffers are the caller's
    throw;
  }
}

void RbdDisk::start_read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) {
  check_range(offset, buffer.size());
  ask_image([&] { image_->start_read(buffer, offset, tag); });
}

std::optional<std::uint64_t> RbdDisk::next_read(std::chrono::milliseconds patience) {
  return ask_image([&] { return image_->next(patience); });
}

void RbdDisk::survey(std::uint64_t offset) {
  const std::uint64_t begin = offset / object_size_ * object_size_;
  surveyed_ = {begin, begin + std::min(size_ - begin, objects_at_once * object_size_)};
  candidates_.clear();
  if (!has_object_maps_ || (base_ && !base_->trust_object_maps)) {
    candidates_.push_back(surveyed_);
    return;
  }
  std::vector<RbdChange> objects = ask_image(
      [&] { return image_->changed(base_ ? base_->snapshot : std::string(), begin, surveyed_.end - begin, true); });
  if (base_)
    for (const RbdBase::Range& range : base_->besides)
      if (range.offset < surveyed_.end && range.offset + range.length > begin)
        objects.push_back({range.offset, range.length, true});
  std::ranges::sort(objects, {}, &RbdChange::offset);
  for (const RbdChange& object : objects) {
    const Range range{
        std::max(begin, object.offset / object_size_ * object_size_),
        std::min(surveyed_.end, (object.offset + object.length + object_size_ - 1) / object_size_ * object_size_)};
    if (!candidates_.empty() && range.begin <= candidates_.back().end + least_gap_objects * object_size_)
      candidates_.back().end = std::max(candidates_.back().end, range.end);
    else
      candidates_.push_back(range);
  }
}

/// The range that holds `offset`, or the next one; empty at the end of what was surveyed when there is none.
RbdDisk::Range RbdDisk::candidate(std::uint64_t offset) {
  if (offset < surveyed_.begin || offset >= surveyed_.end) survey(offset);
  const auto it = std::upper_bound(candidates_.begin(), candidates_.end(), offset,
                                   [](std::uint64_t at, const Range& range) { return at < range.end; });
  return it == candidates_.end() ? Range{surveyed_.end, surveyed_.end} : *it;
}

void RbdDisk::learn_changes(std::uint64_t offset, std::uint64_t end) {
  if (offset >= known_.begin && end <= known_.end) return;
  known_ = {offset, end};
  changes_ =
      ask_image([&] { return image_->changed(base_ ? base_->snapshot : std::string(), offset, end - offset, false); });
}

std::vector<Extent> RbdDisk::tell(std::uint64_t offset, std::uint64_t length, bool discarded_is_data) {
  check_range(offset, length);
  if (length == 0) return {};
  const Range range = candidate(offset);
  if (range.begin > offset) return {{offset, std::min(length, range.begin - offset), false}};
  const std::uint64_t end = std::min({offset + length, range.end, surveyed_.end, offset + most_bytes_asked});
  learn_changes(offset, end);
  // By their begins; where they overlap, the later ones tell what is left.
  std::vector<Range> parts;
  for (const RbdChange& change : changes_)
    if (change.exists || discarded_is_data) parts.push_back({change.offset, change.offset + change.length});
  if (base_)
    for (const RbdBase::Range& more : base_->besides)
      parts.push_back({more.offset, more.offset + more.length});
  std::ranges::sort(parts, {}, &Range::begin);
  std::vector<Extent> extents;
  const auto add = [&](std::uint64_t from, std::uint64_t to, bool data) {
    if (from >= to) return;
    if (!extents.empty() && extents.back().data == data)
      extents.back().length += to - from;
    else
      extents.push_back({from, to - from, data});
  };
  std::uint64_t at = offset;
  for (const Range& part : parts) {
    const std::uint64_t from = std::clamp(part.begin, at, end);
    const std::uint64_t to = std::clamp(part.end, at, end);
    add(at, from, false);
    add(from, to, true);
    at = to;
  }
  add(at, end, false);
  return extents;
}

std::vector<Extent> RbdDisk::extents(std::uint64_t offset, std::uint64_t length) {
  if (!base_) return tell(offset, length, false);
  // Only what changed is read: of that, what was discarded need not be. The rest would cost a question, for nothing.
  check_range(offset, length);
  std::vector<Extent> extents{{offset, length, true}};
  if (offset < known_.begin || offset >= known_.end) return extents;
  const std::uint64_t end = std::min(offset + length, known_.end);
  extents.clear();
  std::uint64_t at = offset;
  const auto add = [&](std::uint64_t to, bool data) {
    if (at >= to) return;
    extents.push_back({at, to - at, data});
    at = to;
  };
  for (const RbdChange& change : changes_) {
    if (change.exists) continue;
    add(std::clamp(change.offset, at, end), true);
    add(std::clamp(change.offset + change.length, at, end), false);
  }
  add(end, true);
  return extents;
}

std::vector<Extent> RbdDisk::dirty_extents(std::uint64_t offset, std::uint64_t length) {
  if (!base_) return {{offset, length, true}};
  return tell(offset, length, true);
}

}  // namespace stillpoint
