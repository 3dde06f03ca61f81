// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace stillpoint {

/// An image's place in a cluster.
struct RbdPlace {
  std::string pool{};
  std::string name_space{};  ///< may be empty
  std::string image{};

  bool operator==(const RbdPlace&) const = default;
};
/// "pool/image", "pool/namespace/image".
[[nodiscard]] std::string to_string(const RbdPlace& place);
/// Reads that; "image" alone is in the pool "rbd". Throws UsageError.
[[nodiscard]] RbdPlace parse_rbd_place(const std::string& text);
/// Throws UsageError for a place that others would read as another one, or as none: its name is not to be made.
void check_rbd_name(const RbdPlace& place);

/// Reads "pool" and "pool/namespace" into a place without an image; `with_image`: "pool/image" and
/// "pool/namespace/image" instead, "pool/namespace/" into one without. Throws UsageError.
[[nodiscard]] RbdPlace parse_rbd_pool(const std::string& text, bool with_image);

/// RBD_FEATURE_* of names as the rbd command has them ("layering", "exclusive-lock"). Throws UsageError: an unknown
/// name, or one that needs another.
[[nodiscard]] std::uint64_t parse_rbd_features(const std::vector<std::string>& names);
/// They are needed for: fencing of a client that is taken for dead; clones.
inline constexpr std::uint64_t rbd_exclusive_lock = 4;
inline constexpr std::uint64_t rbd_layering = 1;

/// How an image is laid out, or is to be.
struct RbdLayout {
  std::uint64_t size = 0;                   ///< bytes
  unsigned order = 0;                       ///< objects of 2^order bytes; 0: nothing is said
  std::optional<std::uint64_t> features{};  ///< RBD_FEATURE_*; empty: the cluster's default
  std::uint64_t stripe_unit = 0;            ///< bytes; 0: no striping
  std::uint64_t stripe_count = 0;
  std::string data_pool{};  ///< for what is written; empty: the image's pool

  bool operator==(const RbdLayout&) const = default;
};
/// Objects of 4 KiB to 32 MiB.
inline constexpr unsigned least_rbd_order = 12;
inline constexpr unsigned largest_rbd_order = 25;
/// More gain nothing, and librbd does not check them.
inline constexpr std::uint64_t most_rbd_stripes = 65536;

/// What `wanted` does not say, as it is in `source` where that can be: the objects' size (else 4 MiB), striping, and
/// those features that a copy can have by itself (no journal, no pool for the data). `source` may say anything. Throws
/// UsageError for stripes that are asked for and do not fit the objects.
[[nodiscard]] RbdLayout completed(RbdLayout wanted, const RbdLayout& source);

struct RbdSnapshot {
  enum class Kind { user, group, trash, mirror };
  std::uint64_t id = 0;
  std::string name{};
  std::uint64_t size = 0;  ///< bytes
  Kind kind = Kind::user;
  std::string group{};           ///< kind group: the group's name
  std::string group_snapshot{};  ///< and the name of its snapshot
};

/// Ranges of a base, at most.
inline constexpr std::size_t max_rbd_ranges = 4096;

/// The RBD snapshot that a still point left on an image, for the next one to tell what changed.
struct RbdBase {
  std::string cluster;   ///< fsid
  std::string image_id;  ///< of the image, not of its name
  std::string snapshot;
  std::uint64_t snapshot_id = 0;
  /// Whether there were older snapshots when it was taken, that the image could be rolled back to behind it.
  bool had_older = false;
  /// What was written between it and the instant, where it is older (RbdInstant): the still point may hold there what
  /// a later comparison with it no longer tells, because it was discarded since. In ascending order.
  struct Range {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    bool operator==(const Range&) const = default;
  };
  std::vector<Range> between{};
  RbdLayout layout{};  ///< of the image, for its copies; without a size, and as good as empty when it is not known

  bool operator==(const RbdBase&) const = default;
};

/// What an image is.
struct RbdFacts {
  std::string id{};  ///< the image's own, another for each image that ever had the name
  RbdLayout layout{};
  std::optional<RbdPlace> parent{};  ///< it is a clone of a snapshot of that image
  std::string group{};               ///< the group it is in; empty when in none
  bool fast_diff = false;            ///< its object maps tell what changed
  bool exclusive_lock = false;       ///< writers of several images can be held at once
  bool journaling = false;
  bool migrating = false;
  bool secondary = false;  ///< a mirror's copy: written by rbd-mirror alone, it can have no snapshots of ours
};

/// A range of an image that was written, or (`exists` false) discarded.
struct RbdChange {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  bool exists = true;

  bool operator==(const RbdChange&) const = default;
};

/// librbd tells somebody who watches an image that a snapshot is about to be taken, and waits for his answer. Called in
/// a thread of librbd's: return at once, answer from another one.
struct QuiesceCalls {
  std::function<void()> quiesce;
  std::function<void()> unquiesce;
};
/// Going out of scope ends it, when what librbd has asked for is answered.
class QuiesceWatch {
 public:
  virtual ~QuiesceWatch() = default;
  /// Answers a quiesce: 0, or an errno (positive) that fails the snapshot. After an error no unquiesce follows.
  virtual void answer(int error) = 0;
};

/// Nobody else has the same lock of the image meanwhile. It is renewed while it lives; going out of scope gives it
/// back.
class RbdLock {
 public:
  virtual ~RbdLock() = default;
  /// Throws Locked when it was lost, for somebody took us for dead, or is about to end without having been renewed.
  virtual void check() = 0;
};

/// An open image. Reads and writes go through a queue: start some, then take what is complete. One thread at a time,
/// but for create_snapshot(). Throws CephError (NotFound where a snapshot is named).
class RbdImage {
 public:
  virtual ~RbdImage() = default;

  [[nodiscard]] virtual const RbdPlace& place() const = 0;
  [[nodiscard]] virtual RbdFacts facts() = 0;
  /// In the order they were taken, all kinds.
  [[nodiscard]] virtual std::vector<RbdSnapshot> snapshots() = 0;
  /// `quiesce`: ask those who watch the image to stand still.
  virtual void create_snapshot(const std::string& name, bool quiesce = false) = 0;
  /// No error when it is gone already.
  virtual void remove_snapshot(const std::string& name) = 0;
  /// From now on reads and size() are of this snapshot; of the image itself after 0.
  virtual void look_at(std::uint64_t snapshot_id) = 0;
  [[nodiscard]] virtual std::uint64_t size() = 0;  ///< bytes, of what is looked at

  /// What was written in the range between the user's snapshot `from` and what is looked at; all there is when `from`
  /// is empty, parents' data too. In ascending order; what is not told has not changed (is a hole). `whole_objects`: by
  /// object maps where the image has them, in steps of objects (of a striped image: what may have changed). These are
  /// wrong after a rollback to a snapshot older than `from`: objects that it changed back are not told.
  [[nodiscard]] virtual std::vector<RbdChange> changed(const std::string& from, std::uint64_t offset,
                                                       std::uint64_t length, bool whole_objects) = 0;

  /// Reads that follow each other may go as one. The buffer stays where it is until the tag came back.
  virtual void start_read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) = 0;
  virtual void start_write(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t tag) = 0;
  /// The range reads as zeros afterwards, without space where it can.
  virtual void start_zero(std::uint64_t offset, std::uint64_t length, std::uint64_t tag) = 0;
  /// The tag of what is complete, in any order; waits at most `patience`. Throws CephError when that one failed.
  [[nodiscard]] virtual std::optional<std::uint64_t> next(std::chrono::milliseconds patience) = 0;
  [[nodiscard]] virtual std::size_t in_flight() const = 0;
  /// Waits until nothing touches any buffer, whatever became of it: bounded by the cluster's limit.
  virtual void drain() noexcept = 0;
  virtual void flush() = 0;
  virtual void resize(std::uint64_t size) = 0;

  /// Key and value pairs that the image carries.
  [[nodiscard]] virtual std::map<std::string, std::string> metadata() = 0;
  virtual void set_metadata(const std::string& key, const std::string& value) = 0;
  virtual void remove_metadata(const std::string& key) = 0;

  [[nodiscard]] virtual std::unique_ptr<QuiesceWatch> watch(QuiesceCalls calls) = 0;

  /// The addresses of those who have it open, but for reading only. We are among them when we have it open to write.
  [[nodiscard]] virtual std::vector<std::string> watchers() = 0;
  /// Without a holder of lock() who has died on this machine: lock() puts an end to what he has left.
  [[nodiscard]] virtual std::vector<std::string> living_watchers() = 0;
  /// The clones of the snapshot that is looked at.
  [[nodiscard]] virtual std::vector<RbdPlace> clones() = 0;
  /// Nobody else can write to the image until it is closed here: librbd fails them with EROFS. One that has no
  /// exclusive lock is left as it is. Throws Locked when another does the same, or does not let go of the lock.
  virtual void keep_writers_out() = 0;
  /// Our own kind of lock: QEMU and others do not know of it. A holder that has died on this machine loses it at once,
  /// another one after two minutes. Throws Locked, which says who has it.
  [[nodiscard]] virtual std::unique_ptr<RbdLock> lock() = 0;
};

enum class RbdAccess {
  read,   ///< sees no later changes of snapshots and size
  write,  ///< and snapshots
};

/// A pool's, or a namespace's, images. Throws CephError.
class RbdPool {
 public:
  virtual ~RbdPool() = default;

  /// Throws NotFound, which says so when it lies in the trash.
  [[nodiscard]] virtual std::unique_ptr<RbdImage> open(const std::string& image, RbdAccess access) = 0;
  [[nodiscard]] virtual bool has(const std::string& image) = 0;
  /// Throws CephError with EEXIST.
  virtual void create(const std::string& image, const RbdLayout& layout) = 0;
  /// A clone of a snapshot, which need not be protected.
  virtual void clone(const std::string& parent, const std::string& snapshot, RbdPool& into,
                     const std::string& image) = 0;
  /// Throws CephError with EEXIST.
  virtual void rename(const std::string& image, const std::string& name) = 0;
  /// Fails while it has snapshots. No error when it is gone already.
  virtual void remove(const std::string& image) = 0;

  /// Groups: one snapshot of several images at one instant.
  [[nodiscard]] virtual std::vector<std::string> groups() = 0;
  virtual void create_group(const std::string& group) = 0;
  /// The image may be in another pool of the cluster; it is in one group at most.
  virtual void add_to_group(const std::string& group, RbdPool& images, const std::string& image) = 0;
  virtual void snapshot_group(const std::string& group, const std::string& snapshot) = 0;
  /// With its snapshots; the images stay. No error when it is gone already.
  virtual void remove_group(const std::string& group) = 0;

  /// rados_ioctx_t, for what needs two pools.
  [[nodiscard]] virtual void* context() = 0;
};

}  // namespace stillpoint
