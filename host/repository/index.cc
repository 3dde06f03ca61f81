// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/index.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "host/repository/doom.hh"

#include <algorithm>

namespace stillpoint {

namespace {

/// Entries in memory before they are written to an object of their own.
constexpr std::size_t publish_entries = std::size_t{1} << 18;
/// Entries that a merge may hold in memory (48 bytes each, twice).
constexpr std::uint64_t merge_entries = std::uint64_t{1} << 21;
/// Tables that are left as they are: to merge them, small ones each time, would cost a short backup more than it has to
/// write.
constexpr std::size_t few_tables = 8;
/// Small tables that are merged though there is nothing to publish: writers who may only add leave one each time.
constexpr std::ptrdiff_t many_tables = 32;

}  // namespace

Index::Index(Store& store, std::span<const std::byte, 16> repository, bool writable, Source source)
    : store_(store), writable_(writable) {
  std::copy(repository.begin(), repository.end(), repository_.begin());
  if (source == Source::packs)
    for (const ObjectInfo& object : store_.list("index"))
      passed_over_.insert(object.name);
  load();
}

void Index::load() {
  // The objects first: a pack that they list was there before them, so the list of packs that follows has it.
  mount_objects();
  quarantine_.load(store_);
  read_dooms();
  std::set<PackId> present;
  for (Pack& pack : packs_)
    pack.present = !pack.sealed;
  for (const ObjectInfo& object : store_.list("packs")) {
    const std::optional<PackId> id = parse_pack_name(object.name);
    if (!id) {
      log_warning("{} is not a pack: ignored", object.name);
      continue;
    }
    present.insert(*id);
    Pack& pack = packs_[number_of(*id)];
    pack.present = true;
    pack.modified = object.modified;
    if (pack.sealed) pack.size = object.size;
  }
  for (Mounted& mounted : tables_)
    for (std::size_t i = 0; i < mounted.packs.size(); ++i) {
      const PackId id = mounted.table.pack(i);
      mounted.packs[i] = present.contains(id) ? number_of(id) : absent;
      if (present.contains(id)) covered_.insert(id);
    }
  read_uncovered(present);
}

void Index::mount_objects() {
  std::set<std::string> mounted;
  for (const Mounted& m : tables_)
    mounted.insert(m.name);
  for (const ObjectInfo& object : store_.list("index")) {
    if (mounted.contains(object.name) || bad_objects_.contains(object.name) || passed_over_.contains(object.name))
      continue;
    try {
      mount(object.name, store_.view(object.name));
    } catch (const NotFound&) {
      // Merged into another one since it was listed.
    } catch (const Corruption& e) {
      log_warning("{}; what it held is read from the packs", e.what());
      problems_.emplace_back(e.what());
      bad_objects_.insert(object.name);
    }
  }
}

void Index::mount(std::string name, std::unique_ptr<ObjectView> view) {
  IndexTable table(std::move(view), name);
  std::vector<std::uint32_t> packs(table.pack_count(), absent);
  tables_.push_back({std::move(name), std::move(table), std::move(packs)});
}

void Index::read_uncovered(const std::set<PackId>& present) {
  for (const PackId& id : present) {
    if (covered_.contains(id)) continue;
    covered_.insert(id);
    std::vector<PackEntry> entries;
    try {
      PackContents contents = read_pack_entries(store_, id, repository_);
      if (!contents.problem.empty()) {
        log_warning("{}", contents.problem);
        packs_[number_of(id)].incomplete = true;
      }
      entries = std::move(contents.entries);
    } catch (const NotFound&) {
      continue;
    } catch (const Corruption& e) {
      log_warning("{}; the pack is left out", e.what());
      packs_[number_of(id)].incomplete = true;
      continue;
    }
    const std::uint32_t number = number_of(id);
    unpublished_.insert(number);
    for (const PackEntry& entry : entries)
      copies_.emplace(entry.id, Fresh{number, entry.offset, entry.stored, entry.plain});
    if (copies_.size() >= publish_entries * 4) publish_locked();
  }
}

std::uint32_t Index::number_of(const PackId& id) {
  const auto [it, inserted] = numbers_.emplace(id, static_cast<std::uint32_t>(packs_.size()));
  if (inserted) packs_.push_back({id});
  return it->second;
}

/// Whether a record can be there at all: a pack that was cut short, or is gone, and quarantine hold nothing.
bool Index::usable(const ChunkId& id, std::uint32_t pack, std::uint64_t offset, std::uint64_t stored) const {
  if (pack == absent) return false;
  const Pack& where = packs_[pack];
  return where.present && offset + record_header_bytes + stored <= where.size && !quarantine_.holds(where.id, id);
}

/// Calls `use` for each record of the chunk that can be there, until it returns true. Whether it did.
template <typename Use>
bool Index::any_copy(const ChunkId& id, const Use& use) const {
  const auto try_fresh = [&](const Fresh& fresh) {
    return usable(id, fresh.pack, fresh.offset, fresh.stored) &&
           use(fresh.pack, IndexEntry{id, fresh.pack, fresh.offset, fresh.stored, fresh.plain}, std::nullopt);
  };
  if (const auto it = fresh_.find(id); it != fresh_.end() && try_fresh(it->second)) return true;
  for (auto [it, end] = copies_.equal_range(id); it != end; ++it)
    if (try_fresh(it->second)) return true;
  for (std::size_t table = 0; table < tables_.size(); ++table) {
    const Mounted& mounted = tables_[table];
    for (std::uint64_t i = mounted.table.find(id); i < mounted.table.size(); ++i) {
      const IndexEntry entry = mounted.table.entry(i);
      if (entry.id != id) break;
      if (entry.pack >= mounted.packs.size()) continue;
      const std::uint32_t pack = mounted.packs[entry.pack];
      if (usable(id, pack, entry.offset, entry.stored) && use(pack, entry, Place{table, i})) return true;
    }
  }
  return false;
}

bool Index::known(const ChunkId& id) const {
  // Claimed is as good: it will be there, or the writer fails as a whole.
  if (const auto it = fresh_.find(id); it != fresh_.end() && it->second.pack == absent) return true;
  return any_copy(id, [&](std::uint32_t pack, const IndexEntry&, const auto&) { return !packs_[pack].doomed; });
}

bool Index::claim(const ChunkId& id) {
  const std::scoped_lock lock(mutex_);
  if (known(id)) return false;
  Fresh& fresh = fresh_[id];
  if (fresh.pack != absent) copies_.emplace(id, fresh);  // one that cannot be used, or not for long
  fresh = {};
  return true;
}

bool Index::holds(const ChunkId& id) {
  const std::scoped_lock lock(mutex_);
  return known(id);
}

void Index::add(const ChunkId& id, std::uint32_t pack, std::uint32_t offset, std::uint32_t stored,
                std::uint32_t plain) {
  const std::scoped_lock lock(mutex_);
  fresh_[id] = {pack, offset, stored, plain};
}

std::uint32_t Index::begin_pack(const PackId& id) {
  const std::scoped_lock lock(mutex_);
  const std::uint32_t number = number_of(id);
  packs_[number].sealed = false;
  covered_.insert(id);
  return number;
}

void Index::seal_pack(std::uint32_t pack) {
  const std::scoped_lock lock(mutex_);
  packs_[pack].sealed = true;
  unpublished_.insert(pack);
  if (fresh_.size() >= publish_entries) publish_locked();
}

void Index::publish(Unwritten unwritten) {
  const std::scoped_lock lock(mutex_);
  publish_locked(unwritten);
}

/// Whether tables are to be merged for their number alone.
bool Index::has_many_tables() const {
  const auto is_small = [](const Mounted& m) { return !m.name.empty() && m.table.size() < merge_entries / 2; };
  return writable_ && store_.may_remove() && std::ranges::count_if(tables_, is_small) > many_tables;
}

void Index::publish_locked(Unwritten unwritten) {
  if (unpublished_.empty() && !has_many_tables()) return;
  std::vector<IndexEntry> entries;
  std::vector<PackId> packs;
  std::unordered_map<std::uint32_t, std::uint32_t> table_number;
  for (const std::uint32_t pack : unpublished_) {
    table_number[pack] = static_cast<std::uint32_t>(packs.size());
    packs.push_back(packs_[pack].id);
  }
  const auto add = [&](const auto& items) {
    for (const auto& [id, fresh] : items)
      if (const auto it = table_number.find(fresh.pack); it != table_number.end())
        entries.push_back({id, it->second, fresh.offset, fresh.stored, fresh.plain});
  };
  add(fresh_);
  add(copies_);

  const std::size_t own_packs = packs.size();
  std::vector<std::string> merged;
  if (writable_ && tables_.size() >= few_tables) merged = merge_small(entries, packs);
  std::vector<std::byte> bytes = encode_index(packs, entries);
  std::string name;
  if (writable_) {
    name = "index/" + random_id();
    store_.put(name, bytes);
    try {
      mount(name, store_.view(name));
    } catch (const NotFound&) {
      // Somebody has merged it into another one, or made the index anew, already.
      mount({}, memory_view(std::move(bytes)));
    } catch (const StorageError& e) {
      if (unwritten == Unwritten::fails) throw;
      log_warning("{}; the next one reads the packs instead", e.what());
      // What was to be merged stays in its own tables.
      merged.clear();
      packs.resize(own_packs);
      if (packs.empty()) return;
      std::erase_if(entries, [&](const IndexEntry& entry) { return entry.pack >= own_packs; });
      mount({}, memory_view(encode_index(packs, entries)));
    }
  } else {
    mount(name, memory_view(std::move(bytes)));
  }
  Mounted& table = tables_.back();
  for (std::size_t i = 0; i < packs.size(); ++i)
    table.packs[i] = number_of(packs[i]);
  std::erase_if(tables_, [&](const Mounted& m) {
    return !m.name.empty() && std::find(merged.begin(), merged.end(), m.name) != merged.end();
  });
  std::erase_if(fresh_, [&](const auto& item) { return table_number.contains(item.second.pack); });
  std::erase_if(copies_, [&](const auto& item) { return table_number.contains(item.second.pack); });
  unpublished_.clear();
  if (!writable_ || !store_.may_remove()) return;
  merged.insert(merged.end(), bad_objects_.begin(), bad_objects_.end());
  bad_objects_.clear();
  for (const std::string& object : merged) {
    try {
      store_.remove(object);
    } catch (const Error& e) {
      log_debug("{}", e.what());  // an object too many only costs a look
    }
  }
}

std::vector<std::string> Index::merge_small(std::vector<IndexEntry>& entries, std::vector<PackId>& packs) {
  // Who may not take away what it merges would only add to it: a prune does it one day.
  if (!store_.may_remove()) return {};
  std::vector<const Mounted*> by_size;
  for (const Mounted& mounted : tables_)
    by_size.push_back(&mounted);
  std::sort(by_size.begin(), by_size.end(),
            [](const Mounted* a, const Mounted* b) { return a->table.size() < b->table.size(); });
  const bool for_number = entries.empty();
  std::vector<std::string> merged;
  std::map<PackId, std::uint32_t> numbers;
  for (std::size_t i = 0; i < packs.size(); ++i)
    numbers.emplace(packs[i], static_cast<std::uint32_t>(i));
  for (const Mounted* mounted : by_size) {
    // Merging only what is at most twice as long keeps the number of objects logarithmic, and the work per entry too.
    const std::uint64_t size = mounted->table.size();
    if ((!for_number && size > 2 * entries.size() + 256) || size + entries.size() > merge_entries) break;
    std::vector<std::uint32_t> renumbered(mounted->packs.size(), absent);
    for (std::size_t i = 0; i < renumbered.size(); ++i) {
      if (mounted->packs[i] == absent) continue;
      const auto [it, inserted] = numbers.emplace(mounted->table.pack(i), static_cast<std::uint32_t>(packs.size()));
      if (inserted) packs.push_back(it->first);
      renumbered[i] = it->second;
    }
    for (std::uint64_t i = 0; i < size; ++i) {
      IndexEntry entry = mounted->table.entry(i);
      if (entry.pack >= renumbered.size() || renumbered[entry.pack] == absent) continue;
      entry.pack = renumbered[entry.pack];
      entries.push_back(entry);
    }
    if (!mounted->name.empty()) merged.push_back(mounted->name);
  }
  return merged;
}

void Index::locate(const ChunkId& id, std::vector<Location>& found) const {
  any_copy(id, [&](std::uint32_t number, const IndexEntry& entry, const auto&) {
    const Pack& pack = packs_[number];
    found.push_back({pack.id, entry.offset, entry.stored, entry.plain, pack.sealed, pack.doomed});
    return false;
  });
}

std::vector<Index::Location> Index::find(const ChunkId& id) {
  const std::scoped_lock lock(mutex_);
  std::vector<Location> found;
  locate(id, found);
  if (found.empty()) {
    load();
    locate(id, found);
  }
  return found;
}

std::optional<std::uint32_t> Index::length_of(const ChunkId& id) {
  const std::scoped_lock lock(mutex_);
  std::optional<std::uint32_t> length;
  any_copy(id, [&](std::uint32_t, const IndexEntry& entry, const auto&) {
    length = entry.plain;
    return true;
  });
  return length;
}

std::optional<Index::Location> Index::lasting_copy(const ChunkId& id) {
  const std::scoped_lock lock(mutex_);
  std::optional<Location> found;
  any_copy(id, [&](std::uint32_t pack, const IndexEntry& entry, const auto&) {
    if (!packs_[pack].sealed || packs_[pack].doomed) return false;
    found = {packs_[pack].id, entry.offset, entry.stored, entry.plain, true, false};
    return true;
  });
  return found;
}

std::vector<ChunkId> Index::chunks_of(const PackId& pack) {
  const std::scoped_lock lock(mutex_);
  std::vector<ChunkId> chunks;
  const auto number = numbers_.find(pack);
  if (number == numbers_.end()) return chunks;
  const auto add = [&](const auto& items) {
    for (const auto& [id, fresh] : items)
      if (fresh.pack == number->second) chunks.push_back(id);
  };
  add(fresh_);
  add(copies_);
  for (const Mounted& mounted : tables_)
    for (std::uint64_t i = 0; i < mounted.table.size(); ++i) {
      const IndexEntry entry = mounted.table.entry(i);
      if (entry.pack < mounted.packs.size() && mounted.packs[entry.pack] == number->second) chunks.push_back(entry.id);
    }
  return chunks;
}

std::vector<Index::PackInfo> Index::packs() {
  const std::scoped_lock lock(mutex_);
  std::vector<PackInfo> packs;
  for (const Pack& pack : packs_)
    if (pack.present && pack.sealed)
      packs.push_back({pack.id, pack.size, pack.modified, pack.doomed, !pack.incomplete});
  return packs;
}

void Index::read_dooms() {
  for (const ObjectInfo& object : store_.list("doomed")) {
    if (!dooms_.insert(object.name).second) continue;
    try {
      for (const PackId& pack : read_doom(store_, object.name))
        packs_[number_of(pack)].doomed = true;
    } catch (const NotFound&) {
      // Prune has ended meanwhile.
    } catch (const Corruption& e) {
      // A writer that does not know what is doomed could rely on it.
      if (writable_) throw Corruption(e.what(), "run 'stillpoint prune', which puts it in order");
      log_warning("{}", e.what());
    }
  }
}

void Index::doom(std::span<const PackId> packs) {
  const std::scoped_lock lock(mutex_);
  for (const PackId& pack : packs)
    packs_[number_of(pack)].doomed = true;
}

std::vector<PackId> Index::doomed() {
  const std::scoped_lock lock(mutex_);
  std::vector<PackId> doomed;
  for (const Pack& pack : packs_)
    if (pack.doomed && pack.present) doomed.push_back(pack.id);
  return doomed;
}

std::vector<std::uint64_t> Index::table_sizes() {
  const std::scoped_lock lock(mutex_);
  std::vector<std::uint64_t> sizes;
  for (const Mounted& mounted : tables_)
    sizes.push_back(mounted.table.size());
  return sizes;
}

std::optional<Index::Place> Index::place_of(const ChunkId& id) {
  const std::scoped_lock lock(mutex_);
  std::optional<Place> found;
  any_copy(id, [&](std::uint32_t pack, const IndexEntry&, const std::optional<Place>& place) {
    if (!place || (found && packs_[pack].doomed)) return false;
    found = place;
    return !packs_[pack].doomed;
  });
  return found;
}

std::optional<std::pair<ChunkId, Index::Location>> Index::at(const Place& place) {
  const std::scoped_lock lock(mutex_);
  const Mounted& mounted = tables_.at(place.table);
  const IndexEntry entry = mounted.table.entry(place.entry);
  if (entry.pack >= mounted.packs.size() || mounted.packs[entry.pack] == absent) return std::nullopt;
  const Pack& pack = packs_[mounted.packs[entry.pack]];
  return std::pair(entry.id, Location{pack.id, entry.offset, entry.stored, entry.plain, true, pack.doomed});
}

void Index::drop_gone_packs() {
  const std::scoped_lock lock(mutex_);
  load();
  for (std::size_t table = 0; table < tables_.size(); ++table) {
    const Mounted& mounted = tables_[table];
    if (mounted.name.empty() || std::ranges::count(mounted.packs, absent) == 0) continue;
    std::vector<PackId> packs;
    std::vector<std::uint32_t> renumbered(mounted.packs.size(), absent);
    for (std::size_t i = 0; i < renumbered.size(); ++i) {
      if (mounted.packs[i] == absent) continue;
      renumbered[i] = static_cast<std::uint32_t>(packs.size());
      packs.push_back(mounted.table.pack(i));
    }
    std::vector<IndexEntry> entries;
    for (std::uint64_t i = 0; i < mounted.table.size(); ++i) {
      IndexEntry entry = mounted.table.entry(i);
      if (entry.pack >= renumbered.size() || renumbered[entry.pack] == absent) continue;
      entry.pack = renumbered[entry.pack];
      entries.push_back(entry);
    }
    const std::string old = mounted.name;
    try {
      if (!packs.empty()) store_.put("index/" + random_id(), encode_index(packs, entries));
    } catch (const StorageError& e) {
      // The old one does: what it says of packs that are gone is passed over.
      log_warning("{}; the old one stays", e.what());
      continue;
    }
    store_.remove(old);
  }
}

std::vector<std::string> Index::problems() {
  const std::scoped_lock lock(mutex_);
  std::vector<std::string> all = problems_;
  const std::vector<std::string>& quarantine = quarantine_.problems();
  all.insert(all.end(), quarantine.begin(), quarantine.end());
  return all;
}

bool Index::knows_of_losses() {
  const std::scoped_lock lock(mutex_);
  return !quarantine_.empty() ||
         std::ranges::any_of(tables_, [](const Mounted& m) { return std::ranges::count(m.packs, absent) != 0; });
}

bool Index::in_quarantine(const PackId& pack, const ChunkId& chunk) {
  const std::scoped_lock lock(mutex_);
  return quarantine_.holds(pack, chunk);
}

void Index::trust(const PackId& pack) {
  const std::scoped_lock lock(mutex_);
  quarantine_.forget(pack);
}

std::vector<ChunkId> Index::distrust(const PackId& pack, std::span<const ChunkId> chunks) {
  const std::scoped_lock lock(mutex_);
  std::vector<ChunkId> added;
  for (const ChunkId& chunk : chunks)
    if (quarantine_.add(pack, chunk)) added.push_back(chunk);
  return added;
}

void Index::refresh() {
  const std::scoped_lock lock(mutex_);
  load();
}

std::uint64_t Index::size() {
  const std::scoped_lock lock(mutex_);
  std::uint64_t count = fresh_.size() + copies_.size();
  for (const Mounted& mounted : tables_)
    count += mounted.table.size();
  return count;
}

}  // namespace stillpoint
