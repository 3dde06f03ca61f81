// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/pruner.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "host/repository/doom.hh"
#include "host/repository/lease.hh"
#include "host/repository/repository.hh"
#include "host/repository/verifier.hh"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

namespace stillpoint {

namespace {

constexpr std::chrono::milliseconds look_interval{500};

void check_stop(const std::stop_token& stop) {
  if (stop.stop_requested())
    throw Interrupted("stopped while it reclaimed space: what is left is done by the next prune");
}

[[noreturn]] void throw_changed() {
  throw Locked("the index was changed while it was read", "run it again");
}

}  // namespace

Pruner::Pruner(ChunkStore& chunks, List list, Load load, std::string lease, std::function<void()> check_lease)
    : chunks_(chunks),
      list_(std::move(list)),
      load_(std::move(load)),
      lease_(std::move(lease)),
      check_lease_(std::move(check_lease)) {}

/// Tells `found` of every chunk of these still points, but for those that were followed before.
void Pruner::follow(const std::vector<std::string>& names, const std::function<void(const ChunkId&)>& found,
                    ReclaimResult& result, const std::stop_token& stop) {
  MapCheck check(chunks_, found);
  for (const std::string& name : names) {
    check_stop(stop);
    try {
      const Manifest manifest = load_(name);
      // An id is what its writer says; a name is written once.
      const std::string key = fmt::format("{} {}", name, manifest.id);
      if (seen_.contains(key)) continue;
      std::string why;
      const auto follow_map = [&](const auto& map) {
        const std::string missing = check.why_not_whole(map);
        if (why.empty()) why = missing;
      };
      for (const DiskRecord& disk : manifest.disks)
        follow_map(disk.map);
      for (const DumpRecord& dump : manifest.dumps)
        if (dump.failure.empty()) follow_map(dump.map);
      for (const StateRecord& state : manifest.state)
        if (state.failure.empty()) follow_map(state.map);
      if (check.lost_nodes()) throw Corruption(why);
      if (!why.empty()) result.damaged.push_back(name);
      seen_.insert(key);
    } catch (const NotFound&) {
      // Deleted since it was listed.
    } catch (const Corruption& e) {
      throw Corruption(fmt::format("what {} needs cannot be read, so nothing is deleted: {}", name, e.what()),
                       "back up its domain in full, which may heal it, or delete that still point; then prune again");
    }
  }
  missing_.insert(check.missing().begin(), check.missing().end());
}

/// Marks what the still points need, each chunk at one place.
void Pruner::mark(ReclaimResult& result, const std::stop_token& stop) {
  Index& index = chunks_.index();
  // Their names first: an index that is read after them knows all that they need.
  const std::vector<std::string> names = list_();
  index.refresh();
  // Where the store is full, this is to make room.
  index.publish(Index::Unwritten::stays);
  packs_ = index.packs();
  const std::vector<std::uint64_t> sizes = index.table_sizes();
  marks_.clear();
  for (const std::uint64_t size : sizes)
    marks_.emplace_back(size, false);
  follow(
      names,
      [&](const ChunkId& id) {
        const std::optional<Index::Place> place = index.place_of(id);
        if (!place || place->table >= marks_.size()) throw_changed();
        marks_[place->table][place->entry] = true;
      },
      result, stop);
  std::vector<std::uint64_t> now = index.table_sizes();
  now.resize(std::min(now.size(), sizes.size()));
  if (now != sizes) throw_changed();
  count();
}

void Pruner::count() {
  for (std::size_t table = 0; table < marks_.size(); ++table)
    for (std::uint64_t entry = 0; entry < marks_[table].size(); ++entry) {
      const auto record = chunks_.index().at({table, entry});
      if (!record) continue;
      const auto& [id, location] = *record;
      Use& use = use_[location.pack];
      if (use.table != table && use.all > 0) use.several = true;
      use.table = table;
      const std::uint64_t bytes = record_length(location.stored);
      use.all += bytes;
      if (marks_[table][entry]) use.needed += bytes;
      // A record that is passed over, of a chunk that is nowhere else: it may be read again one day.
      if (missing_.contains(id)) use.keep = true;
    }
}

/// Packs that are not worth their space. Those that a running backup may just have written are not needed by any still
/// point yet.
std::vector<PackId> Pruner::candidates(const ReclaimOptions& options, ReclaimResult& result) {
  std::optional<WallTime> oldest;
  for (const HeldLease& lease : held_leases(chunks_.store()))
    if (lease.kind == Lease::Kind::shared && lease.id != lease_ && !lease.expired)
      oldest = std::min(oldest.value_or(WallTime::max()), lease.started);
  std::vector<PackId> chosen;
  for (const Index::PackInfo& pack : packs_) {
    ++result.packs;
    const Use use = use_[pack.id];
    // One that several tables list is counted several times: it is worth its space when it may be.
    const bool wanted = use.needed > 0 && (use.several || use.needed * 100 >= use.all * options.least_live_percent);
    const bool young = use.needed == 0 && oldest && pack.modified >= *oldest - clock_margin;
    if (!pack.complete || use.keep) {
      ++result.packs_kept;
      kept_doomed_ = kept_doomed_ || pack.doomed;
      continue;
    }
    if (!pack.doomed && (wanted || young)) continue;
    chosen.push_back(pack.id);
    ++result.packs_deleted;
    result.bytes_deleted += pack.size;
    result.bytes_rewritten += use.needed;
  }
  return chosen;
}

/// Whether a copy that stays was read and found good. Those that were not are relied on no more.
bool Pruner::stays(const ChunkId& id) {
  bool found = false;
  for (const Index::Location& copy : chunks_.index().find(id)) {
    if (copy.doomed || !copy.sealed) continue;
    if (chunks_.is_good(id, copy))
      found = true;
    else
      static_cast<void>(chunks_.index().distrust(copy.pack, {&id, 1}));
  }
  return found;
}

void Pruner::rewrite(const std::vector<ChunkId>& ids, const std::stop_token& stop) {
  StoredTally tally;
  chunks_.crew().for_each(ids.size(), [&](std::size_t i) {
    check_stop(stop);
    if (stays(ids[i])) return;
    static_cast<void>(chunks_.put(chunks_.get(ids[i], max_chunk_bytes), RecordKind::data, tally));
  });
  chunks_.flush(Index::Unwritten::stays);
}

/// A needed chunk that lies in one of these packs is given up there only for a copy that was read and found good: the
/// other one may be rotten, or of somebody who lies about what it is.
void Pruner::vouch_for_copies(const std::vector<PackId>& packs, const std::stop_token& stop) {
  const std::set<PackId> leaving(packs.begin(), packs.end());
  Index& index = chunks_.index();
  for (std::size_t table = 0; table < marks_.size(); ++table)
    for (std::uint64_t entry = 0; entry < marks_[table].size(); ++entry) {
      const auto record = index.at({table, entry});
      if (marks_[table][entry] || !record || !leaving.contains(record->second.pack)) continue;
      const auto place = index.place_of(record->first);
      if (!place || place->table >= marks_.size() || !marks_[place->table][place->entry]) continue;
      const auto other = index.at(*place);
      if (!other || other->second.pack == record->second.pack) continue;
      check_stop(stop);
      if (chunks_.is_good(record->first, other->second)) continue;
      static_cast<void>(index.distrust(other->second.pack, {&record->first, 1}));
      marks_[table][entry] = true;
    }
}

/// What is needed of these packs, by pack.
std::map<PackId, std::vector<ChunkId>> Pruner::needed_of(const std::vector<PackId>& packs) {
  std::map<PackId, std::vector<ChunkId>> needed;
  const std::set<PackId> wanted(packs.begin(), packs.end());
  for (std::size_t table = 0; table < marks_.size(); ++table)
    for (std::uint64_t entry = 0; entry < marks_[table].size(); ++entry) {
      if (!marks_[table][entry]) continue;
      const auto record = chunks_.index().at({table, entry});
      if (record && wanted.contains(record->second.pack)) needed[record->second.pack].push_back(record->first);
    }
  marks_.clear();
  return needed;
}

/// Whether all that may rely on what is doomed have ended. `before`: those of whom that is known.
bool Pruner::wait_for(const std::set<std::string>& before, const ReclaimOptions& options, ReclaimResult& result) {
  Store& store = chunks_.store();
  const auto until = SteadyClock::now() + options.patience;
  for (bool noted = false;;) {
    check_lease_();
    std::vector<std::string> holders;
    for (const HeldLease& lease : held_leases(store)) {
      if (!before.contains(lease.id) || lease.id == lease_) continue;
      if (lease.expired)
        fence(store, lease);
      else
        holders.push_back(lease.holder);
    }
    if (holders.empty()) return true;
    if (SteadyClock::now() >= until) {
      result.waits_for = std::move(holders);
      return false;
    }
    if (!std::exchange(noted, true)) options.note(fmt::format("waiting for {}", holders.front()));
    check_stop(options.stop);
    std::this_thread::sleep_for(look_interval);
  }
}

/// Those who work here now, and may not know of a doom that was written just before.
std::set<std::string> Pruner::others(const std::stop_token& stop) {
  // A cached directory may hide the doom from a writer for as long, and then his lease from us.
  for (auto left = 2 * chunks_.store().visibility(); left.count() > 0; --left) {
    check_stop(stop);
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
  std::set<std::string> ids = shared_leases(chunks_.store());
  ids.erase(lease_);
  return ids;
}

void Pruner::delete_packs(std::span<const PackId> packs) {
  check_lease_();
  for (const PackId& pack : packs)
    chunks_.store().remove(object_name(pack));
}

void Pruner::sweep_quarantine() {
  std::set<PackId> present;
  for (const ObjectInfo& object : chunks_.store().list("packs"))
    if (const std::optional<PackId> pack = parse_pack_name(object.name)) present.insert(*pack);
  for (const ObjectInfo& object : chunks_.store().list("quarantine")) {
    PackId pack;
    const std::string_view name = std::string_view(object.name).substr(sizeof "quarantine");
    if (hex_to_bytes(name.substr(0, name.find('.')), pack.bytes) && !present.contains(pack))
      chunks_.store().remove(object.name);
  }
}

ReclaimResult Pruner::run(const ReclaimOptions& options) {
  ReclaimResult result;
  Store& store = chunks_.store();
  if (!options.dry_run) chunks_.flush(Index::Unwritten::stays);
  mark(result, options.stop);
  const std::vector<PackId> chosen = candidates(options, result);
  if (options.dry_run) return result;
  // Earlier prunes' dooms, and for whom they wait.
  std::set<std::string> before;
  std::vector<std::string> dooms;
  for (const ObjectInfo& object : store.list("doomed")) {
    dooms.push_back(object.name);
    before.merge(read_waits(store, object.name));
  }
  std::vector<PackId> fresh;
  const std::vector<PackId> old = chunks_.index().doomed();
  for (const PackId& pack : chosen)
    if (std::ranges::find(old, pack) == old.end()) fresh.push_back(pack);
  if (!fresh.empty()) {
    check_lease_();
    const std::vector<std::string> written = write_dooms(store, fresh);
    dooms.insert(dooms.end(), written.begin(), written.end());
    chunks_.index().doom(fresh);
    const std::set<std::string> now = others(options.stop);
    for (const std::string& doom : written)
      write_waits(store, doom, now);
    before.insert(now.begin(), now.end());
  }
  vouch_for_copies(chosen, options.stop);
  std::map<PackId, std::vector<ChunkId>> needed = needed_of(chosen);
  if (!wait_for(before, options, result)) {
    result.packs_waiting = std::exchange(result.packs_deleted, 0);
    return result;
  }
  // What those have committed who did not know of the doom. A commit that they gave up may be on its way yet.
  for (const std::string& lease : before)
    if (lease != lease_ && is_id(lease)) store.drop_unfinished(lease);
  std::set<ChunkId> late;
  const std::vector<std::string> names = list_();
  chunks_.index().refresh();
  follow(
      names,
      [&](const ChunkId& id) {
        const auto places = chunks_.index().find(id);
        if (std::ranges::none_of(places, &Index::Location::doomed) || stays(id)) return;
        late.insert(id);
        for (const Index::Location& place : places)
          needed.try_emplace(place.pack);
      },
      result, options.stop);
  // First what makes room, then what needs some.
  std::vector<PackId> useless;
  std::vector<PackId> rest;
  for (const PackId& pack : chosen)
    (needed.contains(pack) ? rest : useless).push_back(pack);
  delete_packs(useless);
  std::vector<ChunkId> ids(late.begin(), late.end());
  for (const auto& [pack, chunks] : needed)
    ids.insert(ids.end(), chunks.begin(), chunks.end());
  rewrite(ids, options.stop);
  check_stop(options.stop);
  delete_packs(rest);
  // A doom is final: it stays for as long as its packs do.
  if (!kept_doomed_)
    for (const std::string& doom : dooms)
      remove_doom(store, doom);
  sweep_quarantine();
  chunks_.index().drop_gone_packs();
  return result;
}

}  // namespace stillpoint
