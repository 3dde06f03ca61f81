// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/rados-store.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "host/ceph/cluster.hh"
#include "host/ceph/rados.hh"
#include "host/repository/pack.hh"
#include "host/repository/rados-entry.hh"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>

namespace stillpoint {

namespace {

/// RADOS' own measure: what RBD and RGW make their objects of.
constexpr std::size_t full_piece_bytes = 4 << 20;
/// Up to here a content is an entry: leases, dooms and manifests are written even where a pool is full.
constexpr std::size_t most_inline_bytes = 16 << 10;
constexpr std::size_t pieces_in_flight = 8;
constexpr std::size_t requests_in_flight = 32;
/// A writer that died has left no more gaps than it had pieces in flight.
static_assert(requests_in_flight >= 2 * pieces_in_flight);
constexpr std::uint64_t most_pack_pieces = max_pack_bytes / full_piece_bytes;
constexpr std::uint64_t longest_view = std::uint64_t{2} << 30;
constexpr int deepest_folder = 4;
constexpr std::chrono::seconds lock_duration{30};
constexpr std::chrono::seconds lock_renewal{8};

constexpr const char* root_folder = "dir";
constexpr const char* format_key = "format";
constexpr const char* data_pool_key = "data-pool";
constexpr const char* known_format = "1";

std::string folder_object(const std::string& folder) {
  return folder.empty() ? root_folder : fmt::format("{}/{}", root_folder, folder);
}

std::string piece_object(const std::string& id, std::uint64_t number) {
  return fmt::format("data/{}.{}", id, number);
}

/// What Ceph answered, as a store says it. `Otherwise`: for what is nobody's fault but the object's.
template <typename Otherwise>
[[noreturn]] void throw_as_store(const CephError& error) {
  switch (error.exit_code()) {
    case ExitCode::storage:
      throw StorageError(error.what(), error.hint());
    case ExitCode::unreachable:
      throw Unreachable(error.what(), error.hint());
    case ExitCode::configuration:
      throw ConfigError(error.what(), error.hint());
    default:
      break;
  }
  if (error.code() == EIO) throw Otherwise(error.what(), error.hint());
  throw StorageError(error.what(), error.hint());
}

template <typename Work>
auto while_writing(const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (const CephError& e) {
    throw_as_store<StorageError>(e);
  }
}

template <typename Work>
auto while_reading(const Work& work) -> decltype(work()) {
  try {
    return work();
  } catch (const CephError& e) {
    throw_as_store<Corruption>(e);
  }
}

bool is_leaf(std::string_view name) {
  return !name.empty() && name.find_first_of(std::string_view("/\0", 2)) == std::string_view::npos;
}

}  // namespace

struct RadosStore::Pools {
  std::shared_ptr<CephCluster> cluster;
  std::unique_ptr<RadosPool> names;
  std::unique_ptr<RadosPool> contents;
  std::string words;  ///< for messages

  [[nodiscard]] RadosPool& pieces() const noexcept { return contents ? *contents : *names; }

  struct Found {
    std::string text;  ///< the object's entry as it stands there
    std::string content;
  };
  [[nodiscard]] std::optional<Found> find(const std::string& name, bool with_content) const;
  [[nodiscard]] RadosEntry parse(const std::string& name, const std::string& text) const;

  [[nodiscard]] bool names_folder(const std::string& above, const std::string& name) const;
  void check_folder(const std::string& folder) const;
  [[noreturn]] void throw_lost_folder(const std::string& folder) const;
  void make_folder(const std::string& folder) const;
  using Tell = std::function<void(const std::string& folder, const std::string& key, const std::string& value)>;
  void walk(const std::string& top, const std::vector<std::string>& kinds, const Tell& tell) const;

  void remove_pieces(const std::string& id, std::uint64_t count) const;
  void sweep_pieces(const std::string& id) const;
  void drop(const RadosRemnant& remnant) const;
  void forget(const std::string& folder, std::string key) const;
};

/// Throws CephError, Corruption.
std::optional<RadosStore::Pools::Found> RadosStore::Pools::find(const std::string& name, bool with_content) const {
  const auto [folder, leaf] = split_object_name(name);
  const std::string key = rados_key::of(rados_key::object, leaf);
  const std::string content = rados_key::of(rados_key::content, leaf);
  std::vector<std::string> keys{key};
  if (with_content) keys.push_back(content);
  auto entries = names->entries(folder_object(folder), keys);
  if (!entries) check_folder(folder);
  if (!entries || !entries->contains(key)) return std::nullopt;
  return Found{std::move(entries->at(key)), std::move((*entries)[content])};
}

RadosEntry RadosStore::Pools::parse(const std::string& name, const std::string& text) const {
  std::optional<RadosEntry> entry = parse_rados_entry(text);
  if (!entry) throw Corruption(fmt::format("the entry of {} in {} is damaged", name, words));
  return std::move(*entry);
}

namespace {

/// "packs" and "packs/ab" of "packs/ab".
std::vector<std::string> folders_to(const std::string& folder) {
  std::vector<std::string> all;
  for (std::size_t end = 0; end < folder.size();) {
    end = std::min(folder.find('/', end + 1), folder.size());
    all.push_back(folder.substr(0, end));
  }
  return all;
}

}  // namespace

void RadosStore::Pools::throw_lost_folder(const std::string& folder) const {
  throw Corruption(
      fmt::format("RADOS object {} of {} is lost, which lists what is in {}/{}", folder_object(folder), words, words,
                  folder),
      "bring it back, or give it up: 'rados create', then 'stillpoint verify' (docs/repository-format.md)");
}

/// Whether the folder `above`, which is there, names this one. Throws CephError, Corruption.
bool RadosStore::Pools::names_folder(const std::string& above, const std::string& name) const {
  const std::string key = rados_key::of(rados_key::folder, name);
  const auto entries = names->entries(folder_object(above), {key});
  if (!entries && above.empty()) throw StorageError(fmt::format("there is no repository in {} any more", words));
  if (!entries) throw_lost_folder(above);
  return entries->contains(key);
}

/// Of a folder that was not there: that it, and those above it, were never made. Throws CephError, Corruption,
/// StorageError.
void RadosStore::Pools::check_folder(const std::string& folder) const {
  for (const std::string& each : folders_to(folder)) {
    const auto [above, name] = split_object_name(each);
    if (!names_folder(above, name)) return;
  }
  if (folder.empty()) throw StorageError(fmt::format("there is no repository in {} any more", words));
  // It may have been made since.
  if (!names->entries(folder_object(folder), {format_key})) throw_lost_folder(folder);
}

/// Makes the folder, then what makes it findable from those above it. One that was lost is not made again, for it would
/// seem empty. Throws CephError, Corruption, StorageError.
void RadosStore::Pools::make_folder(const std::string& folder) const {
  for (const std::string& each : folders_to(folder)) {
    const auto [above, name] = split_object_name(each);
    if (names_folder(above, name)) continue;
    static_cast<void>(names->change(folder_object(each), {}));
    RadosChange change;
    // A repository that somebody has deleted is not made again.
    change.object = RadosChange::Object::exists;
    change.set.emplace(rados_key::of(rados_key::folder, name), known_format);
    if (names->change(folder_object(above), change) != RadosOutcome::done)
      throw StorageError(fmt::format("there is no repository in {} any more", words));
  }
}

/// Tells of all entries of these kinds in the folder and those below it. Throws CephError, Corruption.
void RadosStore::Pools::walk(const std::string& top, const std::vector<std::string>& kinds, const Tell& tell) const {
  struct Question {
    std::string folder;
    std::string kind;
    std::string after;
    int depth = 0;
  };
  std::deque<Question> waiting;
  std::map<std::uint64_t, Question> asked;
  const auto enter = [&](const std::string& folder, int depth) {
    for (const std::string& kind : kinds)
      waiting.push_back({folder, kind, {}, depth});
    if (depth < deepest_folder) waiting.push_back({folder, std::string(rados_key::folder), {}, depth});
  };
  enter(top, 0);
  const std::unique_ptr<RadosQueue> queue = names->queue();
  for (std::uint64_t tag = 0; !waiting.empty() || queue->in_flight() > 0;) {
    while (!waiting.empty() && queue->in_flight() < requests_in_flight) {
      const Question& question = asked[++tag] = std::move(waiting.front());
      waiting.pop_front();
      queue->start_page(folder_object(question.folder), question.kind, question.after, tag);
    }
    const RadosQueue::Answer answer = queue->next();
    Question question = std::move(asked.extract(answer.tag).mapped());
    if (answer.error == ENOENT) {
      // A folder is there before another one names it.
      if (question.depth > 0) throw_lost_folder(question.folder);
      check_folder(question.folder);
      continue;
    }
    if (answer.error != 0) throw CephError(fmt::format("cannot list {}/{}", words, question.folder), answer.error);
    for (const auto& [key, value] : answer.page.entries) {
      const std::string_view name = std::string_view(key).substr(std::min(question.kind.size(), key.size()));
      if (!key.starts_with(question.kind) || key <= question.after)
        throw Corruption(fmt::format("{}/{} lists what was not asked for", words, question.folder));
      question.after = key;
      if (question.kind != rados_key::folder)
        tell(question.folder, key, value);
      else if (!is_leaf(name))
        throw Corruption(fmt::format("{}/{} names a folder that cannot be", words, question.folder));
      else
        enter(question.folder.empty() ? std::string(name) : fmt::format("{}/{}", question.folder, name),
              question.depth + 1);
    }
    if (!answer.page.more) continue;
    if (answer.page.entries.empty()) throw Corruption(fmt::format("{}/{} has no end", words, question.folder));
    waiting.push_back(std::move(question));
  }
}

/// Throws CephError, when it has tried all.
void RadosStore::Pools::remove_pieces(const std::string& id, std::uint64_t count) const {
  const std::unique_ptr<RadosQueue> queue = pieces().queue();
  int failure = 0;
  for (std::uint64_t number = 0; number < count || queue->in_flight() > 0;) {
    if (number < count && queue->in_flight() < requests_in_flight && failure == 0) {
      queue->start_remove(piece_object(id, number), number);
      ++number;
      continue;
    }
    if (queue->in_flight() == 0) break;
    const RadosQueue::Answer answer = queue->next();
    if (answer.error != 0 && answer.error != ENOENT) failure = answer.error;
  }
  if (failure != 0) throw CephError(fmt::format("cannot delete the pieces of {} in {}", id, words), failure);
}

/// The pieces of somebody who did not say how many there are; of an earlier sweep, that did not end, the first may be
/// missing. Throws CephError.
void RadosStore::Pools::sweep_pieces(const std::string& id) const {
  const std::unique_ptr<RadosQueue> queue = pieces().queue();
  for (std::uint64_t first = 0, missing = 0; missing < requests_in_flight || first < most_pack_pieces;
       first += requests_in_flight) {
    missing = 0;
    for (std::uint64_t number = first; number < first + requests_in_flight; ++number)
      queue->start_remove(piece_object(id, number), number);
    while (queue->in_flight() > 0) {
      const RadosQueue::Answer answer = queue->next();
      if (answer.error == ENOENT)
        ++missing;
      else if (answer.error != 0)
        throw CephError(fmt::format("cannot delete the pieces of {} in {}", id, words), answer.error);
    }
  }
}

void RadosStore::Pools::forget(const std::string& folder, std::string key) const {
  RadosChange change;
  change.object = RadosChange::Object::exists;
  change.remove.push_back(std::move(key));
  static_cast<void>(names->change(folder_object(folder), change));
}

/// What was begun and is not to be finished: first its writer's right to commit, then its pieces. He may be writing at
/// this moment: what he leaves is deleted by the prune that finds a note of a day ago.
void RadosStore::Pools::drop(const RadosRemnant& remnant) const {
  const std::string object = folder_object(remnant.folder);
  const std::string garbage = rados_key::of(rados_key::garbage, remnant.id);
  const std::string unfinished = rados_key::of(
      rados_key::unfinished, remnant.lease.empty() ? remnant.id : fmt::format("{}.{}", remnant.lease, remnant.id));
  const auto entries = names->entries(object, {garbage, unfinished});
  if (!entries) return;
  if (const auto found = entries->find(unfinished); found != entries->end()) {
    if (found->second.empty()) {
      // It would compare as one that is not there, committed meanwhile. With it nobody can commit.
      log_warning("{} in {} is damaged: left alone", to_string(remnant), words);
      return;
    }
    RadosChange change;
    change.object = RadosChange::Object::exists;
    change.when.emplace_back(unfinished, found->second);
    change.remove.push_back(unfinished);
    change.set.emplace(garbage, to_string(RadosNote{wall_now()}));
    if (names->change(object, change) == RadosOutcome::done) sweep_pieces(remnant.id);
  } else if (const auto left = entries->find(garbage); left != entries->end()) {
    if (const auto note = parse_rados_note(left->second); note && note->pieces)
      remove_pieces(remnant.id, *note->pieces);
    else
      sweep_pieces(remnant.id);
    forget(remnant.folder, garbage);
  }
}

class RadosStore::Writer : public ObjectWriter {
 public:
  Writer(std::shared_ptr<Pools> pools, std::string name, const std::string& lease)
      : pools_(std::move(pools)),
        name_(std::move(name)),
        id_(random_id()),
        unfinished_(rados_key::of(rados_key::unfinished, lease.empty() ? id_ : fmt::format("{}.{}", lease, id_))),
        begun_(to_string(RadosNote{wall_now()})) {
    std::tie(folder_, leaf_) = split_object_name(name_);
    while_writing([&] { begin(); });
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() override {
    if (committed_) return;
    try {
      queue_.reset();
      // Nothing is heard of it: it would only be waited for again.
      if (unreachable_) return;
      pools_->remove_pieces(id_, pieces_);
      pools_->forget(folder_, unfinished_);
    } catch (const std::exception& error) {
      log_debug("what was not finished is left for prune: {}", error.what());
    }
  }

  void append(std::span<const std::byte> bytes) override {
    guarded([&] {
      while (!bytes.empty()) {
        if (buffer_.empty() && bytes.size() >= full_piece_bytes) {
          send(bytes.first(full_piece_bytes));
          bytes = bytes.subspan(full_piece_bytes);
          continue;
        }
        const auto part = bytes.first(std::min(bytes.size(), full_piece_bytes - buffer_.size()));
        buffer_.insert(buffer_.end(), part.begin(), part.end());
        bytes = bytes.subspan(part.size());
        if (buffer_.size() == full_piece_bytes) flush();
      }
    });
  }

  void commit() override {
    guarded([&] { publish(); });
  }

 private:
  template <typename Work>
  void guarded(const Work& work) {
    try {
      while_writing(work);
    } catch (const Unreachable&) {
      unreachable_ = true;
      throw;
    }
  }

  void begin() {
    RadosChange change;
    change.object = RadosChange::Object::exists;
    change.set.emplace(unfinished_, begun_);
    if (pools_->names->change(folder_object(folder_), change) == RadosOutcome::done) return;
    pools_->make_folder(folder_);
    if (pools_->names->change(folder_object(folder_), change) == RadosOutcome::done) return;
    if (!folder_.empty()) pools_->throw_lost_folder(folder_);
    throw StorageError(fmt::format("there is no repository in {} any more", pools_->words));
  }

  void flush() {
    send(buffer_);
    buffer_.clear();
  }

  void send(std::span<const std::byte> piece) {
    if (!queue_) queue_ = pools_->pieces().queue();
    while (queue_->in_flight() >= pieces_in_flight)
      take_answer();
    queue_->start_write(piece_object(id_, pieces_), piece, pieces_);
    ++pieces_;
    size_ += piece.size();
  }

  void take_answer() {
    if (const RadosQueue::Answer answer = queue_->next(); answer.error != 0)
      throw CephError(fmt::format("cannot write {} to {}", name_, pools_->words), answer.error);
  }

  void publish() {
    RadosEntry entry{id_, size_ + buffer_.size(), 0, {}};
    RadosChange change;
    change.object = RadosChange::Object::exists;
    if (pieces_ > 0 || buffer_.size() > most_inline_bytes) {
      entry.piece_bytes = full_piece_bytes;
      if (!buffer_.empty()) flush();
      while (queue_->in_flight() > 0)
        take_answer();
    } else if (!buffer_.empty()) {
      change.set.emplace(rados_key::of(rados_key::content, leaf_), as_text(buffer_));
    }
    entry.modified = wall_now();
    const std::string object = rados_key::of(rados_key::object, leaf_);
    change.when.emplace_back(unfinished_, begun_);
    change.when.emplace_back(object, std::nullopt);
    change.set.emplace(object, to_string(entry));
    change.remove.push_back(unfinished_);
    if (pools_->names->change(folder_object(folder_), change) == RadosOutcome::done) {
      committed_ = true;
      return;
    }
    if (const auto found = pools_->find(name_, false)) {
      // It was asked twice, for the first answer got lost.
      if (found->text == to_string(entry)) {
        committed_ = true;
        return;
      }
      throw StorageError(fmt::format("cannot create {} in {}: it is there already", name_, pools_->words));
    }
    throw StorageError(fmt::format("cannot create {} in {}: it was taken for abandoned", name_, pools_->words),
                       "nothing is lost: run it again");
  }

  std::shared_ptr<Pools> pools_;
  std::string name_;
  std::string folder_;
  std::string leaf_;
  std::string id_;
  std::string unfinished_;  ///< the key that gives the right to commit
  std::string begun_;
  std::vector<std::byte> buffer_;
  std::unique_ptr<RadosQueue> queue_;
  std::uint64_t pieces_ = 0;
  std::uint64_t size_ = 0;  ///< of these
  bool committed_ = false;
  bool unreachable_ = false;
};

class RadosStore::Reader : public ObjectReader {
 public:
  /// Throws CephError, NotFound, Corruption.
  Reader(std::shared_ptr<Pools> pools, const std::string& name) : pools_(std::move(pools)), name_(name) {
    auto found = pools_->find(name, true);
    if (!found) throw NotFound(fmt::format("{}/{} does not exist", pools_->words, name));
    entry_ = pools_->parse(name, found->text);
    content_ = std::move(found->content);
    if (entry_.piece_bytes == 0 && content_.size() != entry_.size)
      throw Corruption(
          fmt::format("{}/{} has {} bytes instead of {}", pools_->words, name, content_.size(), entry_.size));
  }

  [[nodiscard]] std::uint64_t size() const override { return entry_.size; }

  void read(std::uint64_t offset, std::span<std::byte> buffer) override {
    if (offset > entry_.size || buffer.size() > entry_.size - offset)
      throw Corruption(fmt::format("{}/{} ends at {}", pools_->words, name_, entry_.size));
    if (entry_.piece_bytes == 0) {
      if (!buffer.empty()) std::memcpy(buffer.data(), content_.data() + offset, buffer.size());
      return;
    }
    while_reading([&] { read_pieces(offset, buffer); });
  }

 private:
  void read_pieces(std::uint64_t offset, std::span<std::byte> buffer) {
    std::map<std::uint64_t, std::size_t> lengths;
    const std::unique_ptr<RadosQueue> queue = pools_->pieces().queue();
    while (!buffer.empty() || queue->in_flight() > 0) {
      if (!buffer.empty() && queue->in_flight() < pieces_in_flight) {
        const std::uint64_t number = offset / entry_.piece_bytes;
        const std::uint64_t at = offset % entry_.piece_bytes;
        const auto part = buffer.first(std::min<std::uint64_t>(buffer.size(), entry_.piece_bytes - at));
        queue->start_read(piece_object(entry_.id, number), at, part, number);
        lengths[number] = part.size();
        buffer = buffer.subspan(part.size());
        offset += part.size();
        continue;
      }
      const RadosQueue::Answer answer = queue->next();
      if (answer.error == ENOENT || (answer.error == 0 && answer.bytes != lengths[answer.tag])) throw_lost(answer.tag);
      if (answer.error != 0)
        throw CephError(fmt::format("cannot read piece {} of {}/{}", answer.tag, pools_->words, name_), answer.error);
    }
  }

  [[noreturn]] void throw_lost(std::uint64_t piece) {
    const auto found = pools_->find(name_, false);
    if (!found || !found->text.starts_with(entry_.id))
      throw NotFound(fmt::format("{}/{} was deleted meanwhile", pools_->words, name_));
    throw Corruption(fmt::format("{}/{}: piece {} is missing or too short", pools_->words, name_, piece));
  }

  std::shared_ptr<Pools> pools_;
  std::string name_;
  RadosEntry entry_;
  std::string content_;
};

class RadosStore::Lock : public StoreLock {
 public:
  Lock(std::shared_ptr<Pools> pools, std::string object, std::string cookie)
      : pools_(std::move(pools)),
        object_(std::move(object)),
        cookie_(std::move(cookie)),
        renewer_([this](const std::stop_token& stop) { renew(stop); }) {}
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  ~Lock() override {
    renewer_.request_stop();
    renewer_.join();
    try {
      pools_->names->unlock(object_, cookie_);
    } catch (const std::exception& error) {
      log_debug("a lock is left to expire: {}", error.what());
    }
  }

 private:
  void renew(const std::stop_token& stop) noexcept {
    std::mutex mutex;
    std::condition_variable_any never;
    std::unique_lock lock(mutex);
    while (!never.wait_for(lock, stop, lock_renewal, [&stop] { return stop.stop_requested(); })) {
      try {
        if (pools_->names->renew(object_, cookie_, lock_duration)) continue;
        // It ended, for we or the cluster stood still: most often nobody has taken it meanwhile.
        const bool again = pools_->names->lock(object_, cookie_, lock_duration);
        log_warning("the lock {} in {} had ended, and {}", object_, pools_->words,
                    again ? "is taken again" : "somebody else has it");
        if (!again) return;
      } catch (const std::exception& error) {
        log_warning("{}", error.what());
      }
    }
  }

  std::shared_ptr<Pools> pools_;
  std::string object_;
  std::string cookie_;
  std::jthread renewer_;
};

namespace {

std::string place_words(const RadosAddress& address) {
  return to_url({address.pool, address.name_space, {}, {}, {}});
}

/// Throws ConfigError for a pool that is not there, CephError.
template <typename Name>
std::unique_ptr<RadosPool> open_rados_pool(CephCluster& cluster, const Name& pool, const std::string& name_space) {
  try {
    if constexpr (std::is_integral_v<Name>)
      return cluster.rados_pool(cluster.pool_name(pool), name_space);
    else
      return cluster.rados_pool(pool, name_space);
  } catch (const NotFound& e) {
    throw ConfigError(e.what(), e.hint());
  }
}

/// Where a pool is full no object can be made, but what prune needs to make room can be written in folders that are
/// there.
constexpr std::array<const char*, 8> first_folders{"locks", "features", "doomed",    "waits",
                                                   "index", "packs",    "manifests", "quarantine"};

void create_root(RadosPool& names, RadosPool* contents, const RadosAddress& address) {
  if (names.is_erasure_coded())
    throw ConfigError(
        fmt::format("pool '{}' is erasure-coded, and cannot hold the names of a repository", address.pool),
        fmt::format("name a replicated pool, and behind it this one for the contents: rados://POOL?data-pool={}",
                    address.pool));
  const std::string taken = fmt::format("{} is not empty", place_words(address));
  const char* hint = "a repository needs a namespace of its own: name a new one, rados://POOL/NAMESPACE";
  if (!names.is_empty()) throw ConfigError(taken, hint);
  RadosChange change;
  change.object = RadosChange::Object::is_new;
  change.set.emplace(format_key, known_format);
  if (contents != nullptr) change.set.emplace(data_pool_key, std::to_string(contents->id()));
  if (names.change(root_folder, change) != RadosOutcome::done) throw ConfigError(taken, hint);
  RadosChange found;
  for (const char* folder : first_folders) {
    static_cast<void>(names.change(folder_object(folder), {}));
    found.set.emplace(rados_key::of(rados_key::folder, folder), known_format);
  }
  static_cast<void>(names.change(root_folder, found));
}

/// The pool with the contents, by its number; -1: the same pool.
std::int64_t read_root(RadosPool& names, const std::string& words) {
  const auto root = names.entries(root_folder, {format_key, data_pool_key});
  if (!root || !root->contains(format_key))
    throw ConfigError(fmt::format("there is no repository at {}", words),
                      "check the pool and the namespace, or create one with 'stillpoint init'");
  if (root->at(format_key) != known_format)
    throw ConfigError(fmt::format("the repository {} is of a kind that this program does not know", words),
                      "use a newer one");
  if (!root->contains(data_pool_key)) return -1;
  const std::string& text = root->at(data_pool_key);
  std::int64_t pool = -1;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), pool);
  if (failure != std::errc() || end != text.data() + text.size() || pool < 0)
    throw Corruption(fmt::format("the folder of {} is damaged", words));
  return pool;
}

}  // namespace

RadosStore::RadosStore(const RadosAddress& address, StoreAccess access)
    : url_(to_url(address)), pools_(std::make_shared<Pools>()) {
  pools_->words = place_words(address);
  pools_->cluster = connect_ceph({.conf = address.conf, .user = address.user});
  CephCluster& cluster = *pools_->cluster;
  while_reading([&] {
    pools_->names = open_rados_pool(cluster, address.pool, address.name_space);
    if (!address.data_pool.empty()) pools_->contents = open_rados_pool(cluster, address.data_pool, address.name_space);
    if (access == StoreAccess::create) return create_root(*pools_->names, pools_->contents.get(), address);
    const std::int64_t pool = read_root(*pools_->names, pools_->words);
    if (pools_->contents && pools_->contents->id() != pool)
      throw ConfigError(fmt::format("the contents of {} do not lie in pool '{}'", pools_->words, address.data_pool),
                        "leave out data-pool=: the repository knows where they are");
    if (!pools_->contents && pool >= 0) pools_->contents = open_rados_pool(cluster, pool, address.name_space);
  });
}

RadosStore::~RadosStore() = default;

std::unique_ptr<ObjectWriter> RadosStore::writer(std::string name) {
  return std::make_unique<Writer>(pools_, std::move(name), lease_);
}

std::unique_ptr<ObjectReader> RadosStore::reader(const std::string& name) {
  return while_reading([&] { return std::make_unique<Reader>(pools_, name); });
}

std::unique_ptr<ObjectView> RadosStore::view(const std::string& name) {
  const std::unique_ptr<ObjectReader> object = reader(name);
  if (object->size() > longest_view) throw Corruption(fmt::format("{}/{} is too long", pools_->words, name));
  std::vector<std::byte> bytes(object->size());
  object->read(0, bytes);
  return memory_view(std::move(bytes));
}

std::vector<ObjectInfo> RadosStore::list(std::string_view prefix) {
  std::vector<ObjectInfo> objects;
  const auto list_object = [&](const std::string& folder, const std::string& key, const std::string& text) {
    const std::string_view leaf = std::string_view(key).substr(rados_key::object.size());
    if (!is_leaf(leaf)) throw Corruption(fmt::format("{}/{} has a name that cannot be", pools_->words, folder));
    std::string name = folder.empty() ? std::string(leaf) : fmt::format("{}/{}", folder, leaf);
    const std::optional<RadosEntry> entry = parse_rados_entry(text);
    // One does not hide the others; whoever reads it learns that it is damage.
    if (!entry) log_warning("the entry of {} in {} is damaged", name, pools_->words);
    objects.push_back({std::move(name), entry ? entry->size : 0, entry ? entry->modified : WallTime{}});
  };
  const auto list_remnant = [&](const std::string& folder, const std::string& key, const std::string& text) {
    // Since when is not known: not so long that it is nobody's.
    const std::optional<RadosNote> note = parse_rados_note(text);
    if (const std::optional<RadosRemnant> remnant = remnant_of(folder, key))
      objects.push_back({to_string(*remnant), 0, note ? note->since : wall_now()});
  };
  while_reading([&] {
    if (prefix == "tmp")
      pools_->walk("", {std::string(rados_key::unfinished), std::string(rados_key::garbage)}, list_remnant);
    else
      pools_->walk(std::string(prefix), {std::string(rados_key::object)}, list_object);
  });
  return objects;
}

bool RadosStore::exists(const std::string& name) {
  return while_reading([&] { return pools_->find(name, false).has_value(); });
}

void RadosStore::remove(const std::string& name) {
  while_writing([&] {
    if (const std::optional<RadosRemnant> remnant = parse_rados_remnant(name)) return pools_->drop(*remnant);
    const auto [folder, leaf] = split_object_name(name);
    for (;;) {
      const auto found = pools_->find(name, false);
      if (!found) return;
      // A damaged one goes too, and nobody knows what its pieces were.
      const RadosEntry entry = parse_rados_entry(found->text).value_or(RadosEntry{});
      const std::string garbage = rados_key::of(rados_key::garbage, entry.id);
      RadosChange change;
      change.object = RadosChange::Object::exists;
      change.when.emplace_back(rados_key::of(rados_key::object, leaf), found->text);
      change.remove = {rados_key::of(rados_key::object, leaf), rados_key::of(rados_key::content, leaf)};
      if (entry.pieces() > 0) change.set.emplace(garbage, to_string(RadosNote{wall_now(), entry.pieces()}));
      if (pools_->names->change(folder_object(folder), change) != RadosOutcome::done) continue;
      if (entry.pieces() == 0) return;
      pools_->remove_pieces(entry.id, entry.pieces());
      return pools_->forget(folder, garbage);
    }
  });
}

void RadosStore::drop_unfinished(std::string_view lease) {
  while_writing([&] {
    std::vector<RadosRemnant> remnants;
    pools_->walk("", {fmt::format("{}{}.", rados_key::unfinished, lease)},
                 [&](const std::string& folder, const std::string& key, const std::string&) {
                   if (std::optional<RadosRemnant> remnant = remnant_of(folder, key))
                     remnants.push_back(std::move(*remnant));
                 });
    for (const RadosRemnant& remnant : remnants)
      pools_->drop(remnant);
  });
}

std::unique_ptr<StoreLock> RadosStore::try_lock(const std::string& name) {
  return while_writing([&]() -> std::unique_ptr<StoreLock> {
    const std::string object = "lock/" + name;
    const std::string cookie = random_id();
    if (!pools_->names->lock(object, cookie, lock_duration)) return nullptr;
    return std::make_unique<Lock>(pools_, object, cookie);
  });
}

}  // namespace stillpoint
