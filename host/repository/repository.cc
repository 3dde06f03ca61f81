// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/repository.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "host/repository/checksum.hh"
#include "host/repository/chunk-store.hh"
#include "host/repository/compression.hh"
#include "host/repository/disk-comparison.hh"
#include "host/repository/disk-reader.hh"
#include "host/repository/disk-writer.hh"
#include "host/repository/document.hh"
#include "host/repository/doom.hh"
#include "host/repository/dump-reader.hh"
#include "host/repository/dump-writer.hh"
#include "host/repository/lease.hh"
#include "host/repository/pruner.hh"
#include "host/repository/quarantine.hh"
#include "host/repository/repository-config.hh"
#include "host/repository/still-point-name.hh"
#include "host/repository/store.hh"
#include "host/repository/verifier.hh"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

namespace stillpoint {

namespace {

/// Bytes that prune and delete can free before they need some.
constexpr const char* reserve_object = "reserve";
constexpr std::size_t reserve_bytes = std::size_t{1} << 20;

void make_reserve(Store& store) {
  std::vector<std::byte> bytes(reserve_bytes);
  fill_random(bytes);  // for file systems that compress
  store.put(reserve_object, bytes);
}

}  // namespace

class Repository::Engine {
 public:
  Engine(std::shared_ptr<Store> its_store, Mode mode, const AskForKey& ask)
      : store(std::move(its_store)), config(read_config(*store, mode != Mode::read)), writable(mode != Mode::read) {
    if (config.encrypted)
      unlock(ask);
    else if (!store->list("keys").empty())
      throw ConfigError(
          fmt::format("the repository {} has keys, and its configuration says that it is not encrypted", store->url()),
          "somebody has changed it: nothing is written there");
    // Before anything is read that a backup may rely on.
    if (writable) take_lease(mode);
  }

  void unlock(const AskForKey& ask) {
    if (!ask) throw ConfigError(fmt::format("the repository {} is encrypted, and no key is given", store->url()));
    master = KeyRing(*store, config.id).open(ask());
    keys = std::make_shared<RepositoryKeys>(*master);
  }

  void need_encrypted() const {
    if (!master) throw ConfigError(fmt::format("the repository {} is not encrypted", store->url()));
  }

  /// Where the store is full, what is there to make room has some set aside for that.
  void take_lease(Mode mode) {
    try {
      lease = std::make_unique<Lease>(store, Lease::Kind::shared);
    } catch (const StorageError&) {
      if (mode != Mode::reclaim || !store->exists(reserve_object)) throw;
      store->remove(reserve_object);
      lease = std::make_unique<Lease>(store, Lease::Kind::shared);
    }
    store->work_under(lease->id());
  }

  /// The chunks, and with them the index, are opened when they are first needed: `list` goes without.
  /// Writers may be asked for by several threads at once.
  std::shared_ptr<ChunkStore> open_chunks() {
    const std::scoped_lock lock(mutex_);
    if (!lease) {
      try {
        take_lease(Mode::read);
      } catch (const Error& e) {
        // Where it may only read: a prune meanwhile can make it fail, and nothing worse.
        log_debug("reading without a lease: {}", e.what());
      }
    }
    if (!chunks_) {
      chunks_ = std::make_shared<ChunkStore>(store, config.id, config.chunk_bytes, writable, keys);
      chunks_->set_compression(compression_);
    }
    return chunks_;
  }

  void set_compression(int level) {
    const std::scoped_lock lock(mutex_);
    compression_ = level;
    if (chunks_) chunks_->set_compression(level);
  }

  /// What open_chunks() has opened, if anything.
  std::shared_ptr<ChunkStore> opened_chunks() {
    const std::scoped_lock lock(mutex_);
    return chunks_;
  }

  void need_writable() const {
    if (!writable) throw ConfigError(fmt::format("the repository {} is open for reading only", store->url()));
  }

  std::shared_ptr<Store> store;
  RepositoryConfig config;
  bool writable;
  std::optional<Secret> master;  ///< of an encrypted one
  std::shared_ptr<const RepositoryKeys> keys;
  std::unique_ptr<Lease> lease;  ///< none while only manifests are read, and where nothing can be written

 private:
  std::mutex mutex_;
  int compression_ = default_compression;
  std::shared_ptr<ChunkStore> chunks_;
};

namespace {

constexpr unsigned lock_files = 64;
constexpr std::chrono::milliseconds lock_interval{50};

/// What nobody will finish: of leases that are gone, and what is a day old and has none. `objects`: of "tmp", as it was
/// before: who had begun one of them and still works has a lease now.
void sweep_unfinished(Store& store, const std::vector<ObjectInfo>& objects) {
  std::set<std::string> held;
  for (const HeldLease& lease : held_leases(store))
    held.insert(lease.id);
  const WallTime yesterday = wall_now() - std::chrono::hours(24);
  for (const ObjectInfo& object : objects) {
    const std::string name = object.name.substr(sizeof "tmp");
    const std::size_t dot = name.find('.');
    const bool lost = dot == std::string::npos ? object.modified < yesterday : !held.contains(name.substr(0, dot));
    if (lost) store.remove(object.name);
  }
}

/// "manifests/DOMAIN/TIME" as a summary; nothing when it is named otherwise.
std::optional<StillPointSummary> summary_of(std::string_view object) {
  const std::optional<ManifestObject> named = parse_manifest_object(object);
  if (!named) return std::nullopt;
  return StillPointSummary{fmt::format("{}@{}", named->domain, named->time), named->domain, named->instant};
}

std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j)
    row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, changed}));
    }
  }
  return row[b.size()];
}

/// What is there instead: the domain's own still points nearest in name, else the domains nearest in name.
std::string nearest(const std::vector<StillPointSummary>& all, const StillPointName& wanted) {
  std::vector<std::string> names;
  for (const StillPointSummary& summary : all)
    if (summary.domain == wanted.domain) names.push_back(summary.name);
  std::string wanted_name = wanted.domain + "@" + wanted.time;
  if (names.empty()) {
    for (const StillPointSummary& summary : all)
      if (names.empty() || names.back() != summary.domain) names.push_back(summary.domain);
    wanted_name = wanted.domain;
  }
  if (names.empty()) return "the repository has no still points yet";
  constexpr std::size_t shown = 3;
  wanted_name.resize(std::min<std::size_t>(wanted_name.size(), 512));
  const std::size_t count = std::min(names.size(), shown);
  std::partial_sort(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(count), names.end(),
                    [&](const std::string& a, const std::string& b) {
                      return std::pair(distance(a, wanted_name), a) < std::pair(distance(b, wanted_name), b);
                    });
  names.resize(count);
  return fmt::format("there is {}", fmt::join(names, ", "));
}

/// Returns when no other prune works here; throws Locked when one does. Of those that begin at once, none of which
/// knows who was first, one goes on: that with the least id, which waits for the others to see that and to go.
void stand_alone(Store& store, const std::string& id, const std::stop_token& stop) {
  constexpr std::chrono::seconds to_go{10};
  constexpr std::chrono::milliseconds look{200};
  const auto sleep = [&stop](std::chrono::milliseconds length) {
    std::mutex mutex;
    std::unique_lock lock(mutex);
    std::condition_variable_any never;
    never.wait_for(lock, stop, length, [] { return false; });
    if (stop.stop_requested()) throw Interrupted("stopped before it deleted anything");
  };
  sleep(store.visibility());
  for (const Deadline deadline(to_go + 2 * store.visibility());;) {
    bool others = false;
    for (const HeldLease& lease : held_leases(store)) {
      if (lease.kind != Lease::Kind::exclusive || lease.id == id) continue;
      if (lease.expired) {
        fence(store, lease);
      } else if (lease.id < id || deadline.passed()) {
        throw Locked(fmt::format("another prune runs: {}", lease.holder), "try again later");
      } else {
        others = true;
      }
    }
    if (!others) return;
    sleep(look);
  }
}

/// Of drills whose still point is gone. They are written after it: one that is not in a later list is deleted.
void sweep_drills(Store& store) {
  std::vector<std::string> objects;
  for (const ObjectInfo& object : store.list("drills"))
    objects.push_back(object.name);
  if (objects.empty()) return;
  std::set<std::string> names;
  for (const ObjectInfo& object : store.list("manifests"))
    if (const std::optional<StillPointSummary> summary = summary_of(object.name)) names.insert(summary->name);
  for (const std::string& object : objects)
    if (const std::string name = parse_drill_object(object).still_point; !name.empty() && !names.contains(name))
      store.remove(object);
}

/// From now on programs that do not know it may only read here.
void need_feature(Store& store, std::string_view feature) {
  const std::string object = fmt::format("features/ro_compat.{}", feature);
  if (store.exists(object)) return;
  try {
    store.put(object, {});
  } catch (const StorageError&) {
    // Somebody else's may have come first.
    if (!store.exists(object)) throw;
  }
}

std::string protection_object(const std::string& name) {
  const StillPointName parsed = parse_still_point_name(name);
  return fmt::format("protected/{}/{}", escape_domain(parsed.domain), parsed.time);
}

/// What of a still point cannot be given back; adds the bytes of its disks and dumps to `covered`.
std::vector<std::string> why_damaged(MapCheck& check, const Manifest& manifest,
                                     const std::optional<std::filesystem::path>& directory, std::uint64_t& covered) {
  std::vector<std::string> reasons;
  const auto follow = [&](const auto& map, std::string_view kind, std::string_view name) {
    covered += map.size;
    if (const std::string why = check.why_not_whole(map); !why.empty())
      reasons.push_back(fmt::format("{} {}: {}", kind, name, why));
  };
  for (const DiskRecord& disk : manifest.disks)
    follow(disk.map, "disk", disk.target);
  for (const DumpRecord& dump : manifest.dumps)
    if (dump.failure.empty()) follow(dump.map, "dump", dump.name);
  for (const StateRecord& state : manifest.state)
    if (state.failure.empty()) follow(state.map, to_string(state.kind), state.name);
  for (const TreeRecord& tree : manifest.trees)
    if (tree.failure.empty() && directory && !std::filesystem::is_directory(*directory / tree.path))
      reasons.push_back(fmt::format("tree of {}: {} is gone", tree.file_system, tree.path));
  return reasons;
}

}  // namespace

void Repository::create(std::string_view url, const RepositoryOptions& options) {
  if (!valid_chunk_bytes(options.chunk_bytes))
    throw ConfigError(fmt::format("chunks of {} bytes are not possible", options.chunk_bytes),
                      "use a power of two from 65536 to 4194304");
  const std::unique_ptr<Store> store = open_store(url, StoreAccess::create);
  const RepositoryConfig config{random_id(), options.chunk_bytes, options.key.has_value()};
  // The key first: a repository that is there can be opened.
  if (options.key) KeyRing(*store, config.id).add(random_secret(), *options.key, "");
  make_reserve(*store);
  write_config(*store, config);
}

Repository::Repository(std::string_view url, Mode mode, const AskForKey& ask)
    : Repository(open_store(url, mode == Mode::write ? StoreAccess::write : StoreAccess::read), mode, ask) {}
Repository::Repository(std::shared_ptr<Store> store, Mode mode, const AskForKey& ask)
    : engine_(std::make_unique<Engine>(std::move(store), mode, ask)) {}
Repository::Repository(Repository&&) noexcept = default;
Repository& Repository::operator=(Repository&&) noexcept = default;
Repository::~Repository() = default;

const std::string& Repository::url() const {
  return engine_->store->url();
}

const std::string& Repository::id() const {
  return engine_->config.id;
}

std::uint32_t Repository::chunk_bytes() const {
  return engine_->config.chunk_bytes;
}

bool Repository::encrypted() const {
  return engine_->config.encrypted;
}

std::string Repository::add_key(const KeySource& source, std::string_view label) {
  engine_->need_writable();
  engine_->need_encrypted();
  return KeyRing(*engine_->store, id()).add(*engine_->master, source, label);
}

void Repository::remove_key(const std::string& key) {
  engine_->need_writable();
  engine_->need_encrypted();
  KeyRing(*engine_->store, id()).remove(key);
}

std::vector<KeyInfo> Repository::keys() {
  engine_->need_encrypted();
  return KeyRing(*engine_->store, id()).list();
}

std::optional<std::filesystem::path> Repository::directory() const {
  return engine_->store->directory();
}

void Repository::set_compression(int level) {
  engine_->set_compression(level);
}

std::unique_ptr<DiskWriter> Repository::write_disk(std::uint64_t size, const std::optional<DiskMap>& base) {
  engine_->need_writable();
  return std::make_unique<ChunkedDiskWriter>(engine_->open_chunks(), size, base);
}

std::unique_ptr<DumpWriter> Repository::write_dump(const std::optional<StreamMap>& base) {
  engine_->need_writable();
  return std::make_unique<ChunkedDumpWriter>(engine_->open_chunks(), base);
}

std::unique_ptr<StoreLock> Repository::lock_domain(const std::string& uuid) {
  std::unique_ptr<StoreLock> lock = engine_->store->try_lock("domain-" + uuid);
  if (!lock) throw Locked("another backup of this domain into this repository runs", "wait for it to end");
  return lock;
}

Repository::Locks Repository::lock_clusters(const std::vector<std::string>& names, const Deadline& deadline,
                                            const std::stop_token& stop) {
  // Names may come from a guest: whatever it makes up, there are so many files and no more. In one order, so that no
  // two wait for each other.
  std::set<std::string> files;
  ChunkHasher hash;
  for (const std::string& name : names)
    files.insert(fmt::format("cluster-{:02x}", std::to_integer<unsigned>(hash(as_bytes(name)).bytes[0]) % lock_files));
  Locks locks;
  for (const std::string& file : files) {
    for (;;) {
      if (std::unique_ptr<StoreLock> lock = engine_->store->try_lock(file)) {
        locks.push_back(std::move(lock));
        break;
      }
      if (deadline.passed()) throw Locked(fmt::format("somebody else holds {}", fmt::join(names, ", ")));
      if (stop.stop_requested()) throw Interrupted("stopped while it waited for others");
      std::this_thread::sleep_for(lock_interval);
    }
  }
  return locks;
}

std::string Repository::free_name(std::string_view domain, WallTime instant, unsigned taken) {
  const std::string short_time = format_time(instant);
  if (taken == 0 && !engine_->store->exists(manifest_object(domain, short_time)))
    return fmt::format("{}@{}", domain, short_time);
  for (instant += std::chrono::microseconds(taken);; instant += std::chrono::microseconds(1)) {
    const std::string time = format_time_precise(instant);
    if (!engine_->store->exists(manifest_object(domain, time))) return fmt::format("{}@{}", domain, time);
  }
}

void Repository::commit(Manifest& manifest) {
  engine_->need_writable();
  if (manifest.name.empty()) manifest.name = free_name(manifest.domain, manifest.instant);
  const Json json = to_json(manifest);
  // What could not be read again must not be written.
  static_cast<void>(parse_manifest(json));
  try {
    if (const std::shared_ptr<ChunkStore> chunks = engine_->opened_chunks()) chunks->flush();
  } catch (const StorageError&) {
    // Without a lease its unfinished packs are gone too: that is the better reason.
    check_lease();
    throw;
  }
  // A prune that does not know it would delete it.
  if (!manifest.state.empty()) need_feature(*engine_->store, "state");
  const std::string name = manifest_object(manifest.domain, manifest.name.substr(manifest.domain.size() + 1));
  const std::string document =
      seal_document("manifest", engine_->keys ? encrypt_document(engine_->keys->documents, name, json) : json);
  const std::unique_ptr<ObjectWriter> object = engine_->store->writer(name);
  object->append(as_bytes(document));
  relink_base(manifest);
  // Whoever takes the lease away from here on takes the unfinished object too.
  check_lease();
  object->commit();
}

void Repository::check_lease() {
  if (engine_->lease) engine_->lease->check();
}

/// An incremental relies on its base without looking. Where prune works meanwhile, and the base may be no more, it
/// looks: what only doomed packs hold is stored again.
void Repository::relink_base(const Manifest& manifest) {
  const std::shared_ptr<ChunkStore> chunks = engine_->opened_chunks();
  if (!chunks || manifest.parent.empty()) return;
  // Most often the base is the newest.
  std::vector<StillPointSummary> all = list(manifest.domain);
  std::ranges::reverse(all);
  const bool base_is_there = std::ranges::any_of(all, [&](const StillPointSummary& summary) {
    try {
      return load(summary.name).id == manifest.parent;
    } catch (const Error&) {
      return false;
    }
  });
  if (base_is_there && engine_->store->list("doomed").empty()) return;
  chunks->index().refresh();
  std::set<ChunkId> doomed;
  MapCheck check(*chunks, [&](const ChunkId& id) {
    if (std::ranges::all_of(chunks->index().find(id), &Index::Location::doomed)) doomed.insert(id);
  });
  for (const DiskRecord& disk : manifest.disks)
    if (const std::string why = check.why_not_whole(disk.map); !why.empty())
      throw CaptureError(
          fmt::format("the still point that disk {} builds on was deleted meanwhile: {}", disk.target, why),
          "try again");
  StoredTally tally;
  for (const ChunkId& id : doomed)
    static_cast<void>(chunks->put(chunks->get(id, max_chunk_bytes), RecordKind::data, tally));
  if (!doomed.empty()) chunks->flush();
}

std::unique_ptr<BlockReader> Repository::open_disk(const DiskMap& map, std::size_t cache_bytes) {
  return std::make_unique<MappedDiskReader>(engine_->open_chunks(), map, cache_bytes);
}

void Repository::compare_disks(const DiskMap& from, const DiskMap& to,
                               const std::function<void(const Extent&)>& consumer) {
  stillpoint::compare_disks(*engine_->open_chunks(), from, to, consumer);
}

void Repository::check_copy(const DiskMap& map, BlockReader& copy, CaptureProgress& progress,
                            const std::function<void(const Extent&)>& consumer) {
  check_disk_copy(*engine_->open_chunks(), map, copy, progress, consumer);
}

void Repository::read_dump(const StreamMap& map, const std::function<void(std::span<const std::byte>)>& consumer) {
  read_stream(*engine_->open_chunks(), map, consumer);
}

std::unique_ptr<BlockReader> Repository::open_dump(const StreamMap& map) {
  return std::make_unique<MappedStreamReader>(engine_->open_chunks(), map);
}

std::vector<std::string> Repository::resolve(const std::vector<std::string>& names) {
  std::vector<std::string> found;
  const auto add_all = [&](const std::vector<StillPointSummary>& all) {
    for (const StillPointSummary& summary : all)
      found.push_back(summary.name);
  };
  if (names.empty()) add_all(list());
  for (const std::string& name : names) {
    const StillPointName parsed = parse_still_point_name(name);
    if (!parsed.time.empty() || name.ends_with("@latest")) {
      found.push_back(load(name).name);
      continue;
    }
    const std::vector<StillPointSummary> all = list(parsed.domain);
    if (all.empty()) throw NotFound(fmt::format("there is no still point of '{}'", name), nearest(list(), parsed));
    add_all(all);
  }
  return found;
}

VerifyResult Repository::verify(const std::vector<std::string>& names, const VerifyOptions& options) {
  const std::vector<std::string> wanted = resolve(names);
  const std::shared_ptr<ChunkStore> chunks = engine_->open_chunks();
  VerifyResult result;
  result.problems = config_problems(*engine_->store);
  for (std::string& problem : KeyRing(*engine_->store, engine_->config.id).problems(engine_->writable))
    result.problems.push_back(std::move(problem));
  for (std::string& problem : chunks->index().problems())
    result.problems.push_back(std::move(problem));
  read_packs(*chunks, options, result);
  MapCheck check(*chunks, {}, options.read_percent > 0 ? MapCheck::Pieces::made : MapCheck::Pieces::followed);
  for (const std::string& name : wanted) {
    if (options.stop.stop_requested()) throw Interrupted("stopped while it followed the maps");
    try {
      DamagedStillPoint damaged{name, why_damaged(check, load(name), directory(), result.covered)};
      if (!damaged.reasons.empty()) result.damaged.push_back(std::move(damaged));
    } catch (const NotFound&) {
      continue;  // deleted since it was listed
    } catch (const Corruption& e) {
      result.damaged.push_back({name, {e.what()}});
    }
    ++result.still_points;
  }
  distrust_everywhere(*chunks, check.wrong_patches());
  // Written down, so that the next backup looks whether its base is whole. No pack has that name.
  const bool unknown = !chunks->index().knows_of_losses();
  const std::vector<ChunkId> missing =
      chunks->index().distrust({}, std::vector<ChunkId>(check.missing().begin(), check.missing().end()));
  if (engine_->writable && unknown && !missing.empty()) put_in_quarantine(*engine_->store, {}, missing);
  return result;
}

std::vector<RetainedStillPoint> Repository::retention(const RetentionPolicy& policy,
                                                      const std::vector<std::string>& domains) {
  std::map<std::string, std::vector<RetainedStillPoint>> by_domain;
  for (const std::string& domain : domains)
    if (list(domain).empty())
      throw NotFound(fmt::format("there is no still point of '{}'", domain), nearest(list(), {domain, {}}));
  for (const StillPointSummary& summary : list())
    if (domains.empty() || std::ranges::count(domains, summary.domain) != 0)
      by_domain[summary.domain].push_back({summary.name, summary.instant, is_protected(summary.name), {}});
  std::vector<RetainedStillPoint> all;
  for (auto& [domain, still_points] : by_domain) {
    apply_retention(policy, still_points);
    all.insert(all.end(), still_points.begin(), still_points.end());
  }
  return all;
}

void Repository::remove(const std::string& name) {
  engine_->need_writable();
  if (is_protected(name))
    throw UsageError(fmt::format("{} is protected", name), fmt::format("stillpoint unprotect {}", name));
  const StillPointName parsed = parse_still_point_name(name);
  if (!contains(name)) throw NotFound(fmt::format("there is no still point '{}'", name), nearest(list(), parsed));
  engine_->store->remove(manifest_object(parsed.domain, parsed.time));
  for (const ObjectInfo& object : engine_->store->list("drills/" + escape_domain(parsed.domain)))
    if (parse_drill_object(object.name).still_point == name) engine_->store->remove(object.name);
}

void Repository::record_drill(const DrillRecord& record) {
  engine_->need_writable();
  const std::string object = drill_object(record.name, record.at);
  Json json = to_json(record);
  if (engine_->keys) json = encrypt_document(engine_->keys->documents, object, json);
  engine_->store->put(object, as_bytes(seal_document("drill", json)));
}

std::map<std::string, std::string> Repository::drills(std::string_view name) {
  std::map<std::string, std::pair<WallTime, std::string>> newest;
  const std::string prefix = name.empty() ? "drills" : "drills/" + escape_domain(parse_still_point_name(name).domain);
  for (const ObjectInfo& object : engine_->store->list(prefix)) {
    const DrillObject named = parse_drill_object(object.name);
    if (!name.empty() && named.still_point != name) continue;
    if (named.still_point.empty()) {
      log_warning("{} is not a drill's record: ignored", object.name);
      continue;
    }
    auto& [at, is] = newest[named.still_point];
    if (is.empty() || at < named.at) at = named.at, is = object.name;
  }
  std::map<std::string, std::string> objects;
  for (auto& [still_point, found] : newest)
    objects.emplace(still_point, std::move(found.second));
  return objects;
}

DrillRecord Repository::load_drill(const std::string& object) {
  Json json = open_document("drill", engine_->store->get(object, max_document_bytes), object);
  if (engine_->keys) json = decrypt_document(engine_->keys->documents, object, json);
  DrillRecord record = parse_drill(json);
  if (drill_object(record.name, record.at) != object)
    throw Corruption(fmt::format("{} is the record of another drill", object));
  return record;
}

bool Repository::contains(const std::string& name) {
  const StillPointName parsed = parse_still_point_name(name);
  return !parsed.time.empty() && engine_->store->exists(manifest_object(parsed.domain, parsed.time));
}

void Repository::protect(const std::string& name, bool on) {
  engine_->need_writable();
  const std::string object = protection_object(load(name).name);
  if (!on) return engine_->store->remove(object);
  if (!engine_->store->exists(object)) engine_->store->put(object, {});
}

bool Repository::is_protected(const std::string& name) {
  return !parse_still_point_name(name).time.empty() && engine_->store->exists(protection_object(name));
}

WallTime Repository::oldest_work() {
  engine_->need_writable();
  WallTime oldest = wall_now();
  for (const HeldLease& lease : held_leases(*engine_->store)) {
    if (lease.expired)
      fence(*engine_->store, lease);
    else
      oldest = std::min(oldest, lease.started);
  }
  return oldest;
}

ReclaimResult Repository::reclaim(const ReclaimOptions& options) {
  Store& store = *engine_->store;
  std::optional<Lease> exclusive;
  if (!options.dry_run) {
    engine_->need_writable();
    const std::vector<ObjectInfo> unfinished = store.list("tmp");
    exclusive.emplace(engine_->store, Lease::Kind::exclusive);
    stand_alone(store, exclusive->id(), options.stop);
    need_feature(store, "leases");
    drop_damaged_dooms(store);
    // With what the dead have left, whether anything waits for them or not.
    static_cast<void>(oldest_work());
    sweep_unfinished(store, unfinished);
    sweep_drills(store);
  }
  const auto names = [this, &options] {
    std::vector<std::string> all;
    for (const ObjectInfo& object : engine_->store->list("manifests")) {
      const std::optional<StillPointSummary> summary = summary_of(object.name);
      if (!summary)
        throw Corruption(fmt::format("{} is no still point's name, so nothing is deleted", object.name),
                         "look what it is, and take it away");
      if (std::ranges::count(options.without, summary->name) == 0) all.push_back(summary->name);
    }
    return all;
  };
  // Whoever comes later sees our lease, and goes.
  const auto check = [&] {
    if (exclusive) exclusive->check();
  };
  const std::shared_ptr<ChunkStore> chunks = engine_->open_chunks();
  Pruner pruner(
      *chunks, names, [this](const std::string& name) { return load(name); },
      engine_->lease ? engine_->lease->id() : std::string(), check);
  ReclaimResult result = pruner.run(options);
  try {
    if (!options.dry_run && !store.exists(reserve_object)) make_reserve(store);
  } catch (const StorageError& e) {
    log_warning("nothing could be set aside for the next time: {}", e.what());
  }
  return result;
}

std::size_t Repository::rebuild_index() {
  engine_->need_writable();
  // What others publish meanwhile stays: only what was there before is replaced.
  const std::vector<ObjectInfo> old = engine_->store->list("index");
  Index fresh(*engine_->store, engine_->open_chunks()->repository(), true, Index::Source::packs);
  fresh.publish();
  for (const ObjectInfo& object : old)
    engine_->store->remove(object.name);
  return fresh.packs().size();
}

bool Repository::is_whole(const DiskMap& map) {
  const std::shared_ptr<ChunkStore> chunks = engine_->open_chunks();
  return !chunks->index().knows_of_losses() || MapCheck(*chunks).why_not_whole(map).empty();
}

std::vector<StillPointSummary> Repository::list(std::string_view domain) {
  std::vector<StillPointSummary> summaries;
  const std::string prefix = domain.empty() ? "manifests" : "manifests/" + escape_domain(domain);
  for (const ObjectInfo& object : engine_->store->list(prefix)) {
    std::optional<StillPointSummary> summary = summary_of(object.name);
    if (summary)
      summaries.push_back(std::move(*summary));
    else
      log_warning("{} is not a manifest: ignored", object.name);
  }
  std::sort(summaries.begin(), summaries.end(), [](const StillPointSummary& a, const StillPointSummary& b) {
    return std::tie(a.domain, a.instant, a.name) < std::tie(b.domain, b.instant, b.name);
  });
  return summaries;
}

Manifest Repository::load(std::string_view name) {
  StillPointName wanted = parse_still_point_name(name);
  static_cast<void>(escape_domain(wanted.domain));
  if (wanted.time.empty()) {
    const std::vector<StillPointSummary> all = list(wanted.domain);
    if (all.empty())
      throw NotFound(fmt::format("there is no still point of '{}'", wanted.domain), nearest(list(), wanted));
    wanted.time = all.back().name.substr(wanted.domain.size() + 1);
  }
  const std::string object = manifest_object(wanted.domain, wanted.time);
  const std::string full_name = fmt::format("{}@{}", wanted.domain, wanted.time);
  std::string text;
  try {
    text = engine_->store->get(object, max_document_bytes);
  } catch (const NotFound&) {
    throw NotFound(fmt::format("there is no still point '{}'", full_name), nearest(list(), wanted));
  }
  const std::string what = fmt::format("the manifest of {}", full_name);
  try {
    Json json = open_document("manifest", text, what);
    if (engine_->keys) json = decrypt_document(engine_->keys->documents, object, json);
    Manifest manifest = parse_manifest(json);
    if (manifest.name != full_name) throw Corruption(fmt::format("{} is that of {}", what, manifest.name));
    return manifest;
  } catch (const Corruption& e) {
    throw Corruption(e.what(), e.hint().empty() ? "restore another still point" : e.hint());
  }
}

std::optional<Manifest> Repository::latest(std::string_view domain) {
  const std::vector<StillPointSummary> all = list(domain);
  if (all.empty()) return std::nullopt;
  return load(all.back().name);
}

}  // namespace stillpoint
