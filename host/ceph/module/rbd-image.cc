// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/ceph/module/rbd-image.hh"

#include "host/ceph/module/rbd-lock.hh"
#include "host/ceph/module/rbd-queue.hh"

#include <fmt/format.h>
#include <rbd/features.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>

namespace stillpoint {
namespace {

/// Bounds what one question may make us remember.
constexpr std::size_t most_changes = std::size_t{1} << 21;

/// librbd asks ten times, for ten seconds each.
constexpr std::chrono::seconds longest_quiesce{100};

class Watch : public QuiesceWatch {
 public:
  Watch(rbd_image_t image, const std::string& words, QuiesceCalls calls) : image_(image), calls_(std::move(calls)) {
    ceph_check(rbd_quiesce_watch(image, quiesce, unquiesce, this, &number_),
               fmt::format("cannot watch {} for snapshots", words));
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch() override {
    // librbd 16.2 never returns from ending a watch that it waits for, whatever it is answered meanwhile.
    {
      std::unique_lock lock(mutex_);
      ending_ = true;
      answered_.wait_for(lock, longest_quiesce, [this] { return pending_ == 0; });
    }
    rbd_quiesce_unwatch(image_, number_);
  }

  void answer(int error) override {
    rbd_quiesce_complete(image_, number_, -error);
    const std::lock_guard lock(mutex_);
    --pending_;
    answered_.notify_all();
  }

 private:
  static void quiesce(void* user) noexcept {
    auto& watch = *static_cast<Watch*>(user);
    {
      const std::lock_guard lock(watch.mutex_);
      ++watch.pending_;
      if (!watch.ending_) return watch.calls_.quiesce();
    }
    watch.answer(EBUSY);
  }
  static void unquiesce(void* user) noexcept { static_cast<Watch*>(user)->calls_.unquiesce(); }

  rbd_image_t image_;
  QuiesceCalls calls_;
  std::uint64_t number_ = 0;
  std::mutex mutex_;
  std::condition_variable answered_;
  std::size_t pending_ = 0;  ///< quiesces that librbd waits for
  bool ending_ = false;
};

class Image : public RbdImage {
 public:
  Image(std::shared_ptr<PoolContext> context, RbdPlace place, rbd_image_t image)
      : context_(std::move(context)),
        place_(std::move(place)),
        words_(fmt::format("RBD image {}", to_string(place_))),
        // Whatever still uses it keeps the connection too.
        image_(image, [context = context_](rbd_image_t open) { rbd_close(open); }),
        queue_(image, words_, object_size()) {}

  const RbdPlace& place() const override { return place_; }
  RbdFacts facts() override;
  std::vector<RbdSnapshot> snapshots() override;
  void create_snapshot(const std::string& name, bool quiesce) override;
  void remove_snapshot(const std::string& name) override;
  void look_at(std::uint64_t snapshot_id) override;
  std::uint64_t size() override;
  std::vector<RbdChange> changed(const std::string& from, std::uint64_t offset, std::uint64_t length,
                                 bool whole_objects) override;

  void start_read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) override {
    queue_.read(buffer, offset, tag);
  }
  void start_write(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t tag) override {
    queue_.write(bytes, offset, tag);
  }
  void start_zero(std::uint64_t offset, std::uint64_t length, std::uint64_t tag) override {
    queue_.zero(offset, length, tag);
  }
  std::optional<std::uint64_t> next(std::chrono::milliseconds patience) override { return queue_.next(patience); }
  std::size_t in_flight() const override { return queue_.in_flight(); }
  void drain() noexcept override { queue_.drain(); }
  void flush() override { check(rbd_flush(image_.get()), "cannot flush"); }
  void resize(std::uint64_t size) override { check(rbd_resize(image_.get(), size), "cannot resize"); }

  std::map<std::string, std::string> metadata() override;
  void set_metadata(const std::string& key, const std::string& value) override {
    check(rbd_metadata_set(image_.get(), key.c_str(), value.c_str()), "cannot set metadata");
  }
  void remove_metadata(const std::string& key) override {
    const int result = rbd_metadata_remove(image_.get(), key.c_str());
    if (result != -ENOENT) check(result, "cannot remove metadata");
  }
  std::unique_ptr<QuiesceWatch> watch(QuiesceCalls calls) override {
    return std::make_unique<Watch>(image_.get(), words_, std::move(calls));
  }
  std::vector<std::string> watchers() override;
  std::vector<std::string> living_watchers() override;
  std::vector<RbdPlace> clones() override;
  void keep_writers_out() override;
  std::unique_ptr<RbdLock> lock() override;

 private:
  template <typename Result>
  Result check(Result result, std::string_view what) const {
    if (result < 0) throw CephError(fmt::format("{}: {}", words_, what), static_cast<int>(-result));
    return result;
  }
  [[nodiscard]] std::string id() const;
  [[nodiscard]] std::uint64_t object_size() const;
  [[nodiscard]] std::uint64_t features() const;
  [[nodiscard]] bool is_striped() const;
  [[nodiscard]] bool is_demoted() const;
  [[nodiscard]] std::optional<RbdPlace> parent() const;
  [[nodiscard]] std::string group() const;
  void learn_group(RbdSnapshot& snapshot) const;

  std::shared_ptr<PoolContext> context_;
  RbdPlace place_;
  std::string words_;
  std::shared_ptr<void> image_;
  RbdQueue queue_;  ///< ends before the image does
};

std::uint64_t Image::object_size() const {
  rbd_image_info_t info{};
  check(rbd_stat(image_.get(), &info, sizeof info), "cannot be asked what it is");
  return info.obj_size;
}

std::uint64_t Image::features() const {
  std::uint64_t features = 0;
  check(rbd_get_features(image_.get(), &features), "cannot be asked for its features");
  return features;
}

bool Image::is_striped() const {
  std::uint64_t count = 0;
  check(rbd_get_stripe_count(image_.get(), &count), "cannot be asked for its striping");
  return count > 1;
}

/// Of an image that is mirrored by its journal; others carry a feature.
bool Image::is_demoted() const {
  rbd_mirror_image_info_t info{};
  check(rbd_mirror_image_get_info(image_.get(), &info, sizeof info), "cannot be asked for its mirror");
  const bool demoted = info.state == RBD_MIRROR_IMAGE_ENABLED && !info.primary;
  rbd_mirror_image_get_info_cleanup(&info);
  return demoted;
}

std::optional<RbdPlace> Image::parent() const {
  rbd_linked_image_spec_t image{};
  rbd_snap_spec_t snapshot{};
  const int result = rbd_get_parent(image_.get(), &image, &snapshot);
  if (result == -ENOENT) return std::nullopt;
  check(result, "cannot be asked for its parent");
  const RbdPlace place{image.pool_name, image.pool_namespace, image.image_name};
  rbd_linked_image_spec_cleanup(&image);
  rbd_snap_spec_cleanup(&snapshot);
  return place;
}

std::string Image::group() const {
  rbd_group_info_t info{};
  const int result = rbd_get_group(image_.get(), &info, sizeof info);
  if (result == -EOPNOTSUPP) return {};
  check(result, "cannot be asked for its group");
  std::string name = info.pool == -1 || info.name == nullptr ? "" : info.name;
  rbd_group_info_cleanup(&info, sizeof info);
  return name;
}

std::string Image::id() const {
  std::array<char, 256> id{};
  check(rbd_get_id(image_.get(), id.data(), id.size()), "cannot be asked for its id: an image of format 1?");
  return id.data();
}

RbdFacts Image::facts() {
  RbdFacts facts;
  facts.id = id();
  rbd_image_info_t info{};
  check(rbd_stat(image_.get(), &info, sizeof info), "cannot be asked what it is");
  std::uint64_t flags = 0;
  check(rbd_get_flags(image_.get(), &flags), "cannot be asked for its flags");
  check(rbd_get_stripe_unit(image_.get(), &facts.layout.stripe_unit), "cannot be asked for its striping");
  check(rbd_get_stripe_count(image_.get(), &facts.layout.stripe_count), "cannot be asked for its striping");
  facts.layout.size = info.size;
  facts.layout.order = static_cast<unsigned>(info.order);
  const std::uint64_t features = this->features();
  facts.layout.features = features;
  facts.parent = parent();
  facts.group = group();
  facts.fast_diff = (features & RBD_FEATURE_FAST_DIFF) != 0 &&
                    (flags & (RBD_FLAG_FAST_DIFF_INVALID | RBD_FLAG_OBJECT_MAP_INVALID)) == 0;
  facts.exclusive_lock = (features & RBD_FEATURE_EXCLUSIVE_LOCK) != 0;
  facts.journaling = (features & RBD_FEATURE_JOURNALING) != 0;
  facts.migrating = (features & RBD_FEATURE_MIGRATING) != 0;
  facts.secondary = (features & RBD_FEATURE_NON_PRIMARY) != 0 || (facts.journaling && is_demoted());
  return facts;
}

void Image::learn_group(RbdSnapshot& snapshot) const {
  rbd_snap_group_namespace_t group{};
  if (rbd_snap_get_group_namespace(image_.get(), snapshot.id, &group, sizeof group) < 0) return;
  snapshot.group = group.group_name == nullptr ? "" : group.group_name;
  snapshot.group_snapshot = group.group_snap_name == nullptr ? "" : group.group_snap_name;
  rbd_snap_group_namespace_cleanup(&group, sizeof group);
}

std::vector<RbdSnapshot> Image::snapshots() {
  int room = 64;
  std::vector<rbd_snap_info_t> entries;
  int count = 0;
  do {
    entries.resize(static_cast<std::size_t>(room));
    count = rbd_snap_list(image_.get(), entries.data(), &room);
  } while (count == -ERANGE);
  check(count, "cannot list snapshots");
  std::vector<RbdSnapshot> list;
  for (int i = 0; i < count; ++i) {
    const rbd_snap_info_t& entry = entries[static_cast<std::size_t>(i)];
    RbdSnapshot snapshot{entry.id, entry.name, entry.size};
    rbd_snap_namespace_type_t kind = RBD_SNAP_NAMESPACE_TYPE_USER;
    // One that was removed meanwhile is told as it was.
    static_cast<void>(rbd_snap_get_namespace_type(image_.get(), entry.id, &kind));
    snapshot.kind = static_cast<RbdSnapshot::Kind>(kind);
    if (snapshot.kind == RbdSnapshot::Kind::group) learn_group(snapshot);
    list.push_back(std::move(snapshot));
  }
  rbd_snap_list_end(entries.data());
  std::sort(list.begin(), list.end(), [](const RbdSnapshot& a, const RbdSnapshot& b) { return a.id < b.id; });
  return list;
}

void Image::create_snapshot(const std::string& name, bool quiesce) {
  const int result = ask_holder([image = image_, name, quiesce] {
    return rbd_snap_create2(
        image.get(), name.c_str(), quiesce ? 0 : RBD_SNAP_CREATE_SKIP_QUIESCE,
        [](std::uint64_t, std::uint64_t, void*) { return 0; }, nullptr);
  });
  check(result, fmt::format("cannot take snapshot {}", name));
}

void Image::remove_snapshot(const std::string& name) {
  const int result = ask_holder([image = image_, name] { return rbd_snap_remove(image.get(), name.c_str()); });
  if (result != -ENOENT) check(result, fmt::format("cannot remove snapshot {}", name));
}

void Image::look_at(std::uint64_t snapshot_id) {
  constexpr std::uint64_t head = static_cast<std::uint64_t>(-2);  // CEPH_NOSNAP
  const int result = rbd_snap_set_by_id(image_.get(), snapshot_id == 0 ? head : snapshot_id);
  if (result == -ENOENT) throw NotFound(fmt::format("{} has no snapshot with the id {}", words_, snapshot_id));
  check(result, "cannot show a snapshot");
}

std::uint64_t Image::size() {
  std::uint64_t size = 0;
  check(rbd_get_size(image_.get(), &size), "cannot be asked for its size");
  return size;
}

std::vector<RbdChange> Image::changed(const std::string& from, std::uint64_t offset, std::uint64_t length,
                                      bool whole_objects) {
  std::vector<RbdChange> changes;
  struct Told {
    std::vector<RbdChange>& list;
    std::uint64_t step;  ///< ranges are rounded to it; 0: they are not
  } told{changes, whole_objects && is_striped() ? object_size() : 0};
  const auto take = [](std::uint64_t at, std::size_t bytes, int exists, void* user) noexcept -> int {
    auto& [list, step] = *static_cast<Told*>(user);
    if (bytes == 0) return 0;
    if (step != 0) {
      // An object of a striped image is many short ranges, between those of its neighbours.
      const std::uint64_t end = (at + bytes + step - 1) / step * step;
      at = at / step * step;
      if (!list.empty() && list.back().offset <= at && at < list.back().offset + list.back().length)
        at = std::min(end, list.back().offset + list.back().length);
      bytes = static_cast<std::size_t>(end - at);
      exists = 1;
      if (bytes == 0) return 0;
    }
    if (!list.empty() && list.back().offset + list.back().length == at && list.back().exists == (exists != 0)) {
      list.back().length += bytes;
      return 0;
    }
    if (list.size() == most_changes) return -E2BIG;
    try {
      list.push_back({at, bytes, exists != 0});
    } catch (const std::bad_alloc&) {
      return -ENOMEM;
    }
    return 0;
  };
  const int result = rbd_diff_iterate2(image_.get(), from.empty() ? nullptr : from.c_str(), offset, length, 1,
                                       whole_objects ? 1 : 0, take, &told);
  if (result == -ENOENT) throw NotFound(fmt::format("{} has no snapshot {}", words_, from));
  check(result, "cannot tell what changed");
  // Striping deals a range out to several objects, each of which tells its own.
  std::sort(changes.begin(), changes.end(), [](const RbdChange& a, const RbdChange& b) { return a.offset < b.offset; });
  return changes;
}

void Image::keep_writers_out() {
  if ((features() & RBD_FEATURE_EXCLUSIVE_LOCK) == 0) return;
  // librbd takes the lock for each writer anyway, but hands it over to whoever else wants to write.
  const std::optional<int> result =
      try_holder([image = image_] { return rbd_lock_acquire(image.get(), RBD_LOCK_MODE_EXCLUSIVE); });
  if (!result || result == -EROFS)
    throw Locked(fmt::format("another holds the lock of {}, and does not let go of it", words_),
                 "end what uses it, see rbd status and rbd lock ls");
  if (result == -EINVAL)
    throw StorageError(fmt::format("{} cannot be written to", words_), "is it a secondary of a mirror?");
  check(*result, "cannot be locked");
}

std::vector<std::string> Image::watchers() {
  std::size_t count = 64;
  std::vector<rbd_image_watcher_t> entries(count);
  int result = 0;
  while ((result = rbd_watchers_list(image_.get(), entries.data(), &count)) == -ERANGE)
    entries.resize(count);
  check(result, "cannot tell who has it open");
  std::vector<std::string> addresses;
  for (std::size_t i = 0; i < count; ++i)
    addresses.emplace_back(entries[i].addr);
  rbd_watchers_list_cleanup(entries.data(), count);
  return addresses;
}

std::vector<std::string> Image::living_watchers() {
  std::vector<std::string> addresses = watchers();
  if (addresses.empty()) return addresses;
  const std::string dead = dead_lock_holder(*context_, id());
  std::erase_if(addresses, [&](const std::string& address) { return same_client(address, dead); });
  return addresses;
}

std::vector<RbdPlace> Image::clones() {
  std::size_t count = 64;
  std::vector<rbd_linked_image_spec_t> entries(count);
  int result = 0;
  while ((result = rbd_list_children3(image_.get(), entries.data(), &count)) == -ERANGE)
    entries.resize(count);
  check(result, "cannot list its clones");
  std::vector<RbdPlace> places;
  for (std::size_t i = 0; i < count; ++i)
    places.push_back({entries[i].pool_name, entries[i].pool_namespace, entries[i].image_name});
  rbd_linked_image_spec_list_cleanup(entries.data(), count);
  return places;
}

std::unique_ptr<RbdLock> Image::lock() {
  return make_rbd_lock(context_, image_.get(), id(), words_);
}

std::map<std::string, std::string> Image::metadata() {
  std::map<std::string, std::string> all;
  constexpr std::uint64_t at_once = 64;
  std::string last;
  for (;;) {
    std::size_t keys_size = 16384;
    std::size_t values_size = 65536;
    std::string keys;
    std::string values;
    int result = 0;
    do {
      keys.assign(keys_size, '\0');
      values.assign(values_size, '\0');
      result =
          rbd_metadata_list(image_.get(), last.c_str(), at_once, keys.data(), &keys_size, values.data(), &values_size);
    } while (result == -ERANGE);
    check(result, "cannot list metadata");
    std::uint64_t count = 0;
    for (std::size_t k = 0, v = 0; k < keys_size && v < values_size; ++count) {
      const char* const key = keys.c_str() + k;
      const char* const value = values.c_str() + v;
      all.emplace(key, value);
      last = key;
      k += last.size() + 1;
      v += std::char_traits<char>::length(value) + 1;
    }
    if (count < at_once) return all;
  }
}

}  // namespace

std::unique_ptr<RbdImage> make_rbd_image(std::shared_ptr<PoolContext> context, RbdPlace place, rbd_image_t image) {
  return std::make_unique<Image>(std::move(context), std::move(place), image);
}

}  // namespace stillpoint
