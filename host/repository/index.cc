// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/index.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/log.hh"

#include <algorithm>

namespace stillpoint {

namespace {

/// Entries in memory before they are written to an object of their own.
constexpr std::size_t publish_entries = std::size_t{1} << 18;
/// Entries that a merge may hold in memory (48 bytes each, twice).
constexpr std::uint64_t merge_entries = std::uint64_t{1} << 21;

}  // namespace

Index::Index(Store& store, std::span<const std::byte, 16> repository, bool writable)
    : store_(store), writable_(writable) {
  std::copy(repository.begin(), repository.end(), repository_.begin());
  load();
}

void Index::load() {
  // The objects first: a pack that they list was there before them, so the list of packs that follows has it.
  mount_objects();
  std::set<PackId> present;
  for (const ObjectInfo& object : store_.list("packs")) {
    if (const std::optional<PackId> id = parse_pack_name(object.name))
      present.insert(*id);
    else
      log_warning("{} is not a pack: ignored", object.name);
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
    if (mounted.contains(object.name) || bad_objects_.contains(object.name)) continue;
    try {
      mount(object.name, store_.view(object.name));
    } catch (const NotFound&) {
      // Merged into another one since it was listed.
    } catch (const Corruption& e) {
      log_warning("{}; what it held is read from the packs", e.what());
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
      entries = read_pack_entries(store_, id, repository_);
    } catch (const NotFound&) {
      continue;
    } catch (const Corruption& e) {
      log_warning("{}; the pack is left out", e.what());
      continue;
    }
    const std::uint32_t number = number_of(id);
    unpublished_.insert(number);
    for (const PackEntry& entry : entries) {
      Fresh& fresh = fresh_[entry.id];
      if (fresh.pack == absent) fresh = {number, entry.offset, entry.stored, entry.plain};
    }
    if (fresh_.size() >= publish_entries * 4) publish_locked();
  }
}

std::uint32_t Index::number_of(const PackId& id) {
  const auto [it, inserted] = numbers_.emplace(id, static_cast<std::uint32_t>(packs_.size()));
  if (inserted) packs_.push_back({id, true});
  return it->second;
}

bool Index::known(const ChunkId& id) const {
  if (fresh_.contains(id)) return true;
  for (const Mounted& mounted : tables_)
    for (std::uint64_t i = mounted.table.find(id); i < mounted.table.size(); ++i) {
      const IndexEntry entry = mounted.table.entry(i);
      if (entry.id != id) break;
      if (entry.pack < mounted.packs.size() && mounted.packs[entry.pack] != absent) return true;
    }
  return false;
}

bool Index::claim(const ChunkId& id) {
  const std::scoped_lock lock(mutex_);
  if (known(id)) return false;
  fresh_.emplace(id, Fresh{});
  return true;
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

void Index::publish() {
  const std::scoped_lock lock(mutex_);
  publish_locked();
}

void Index::publish_locked() {
  if (unpublished_.empty()) return;
  std::vector<IndexEntry> entries;
  std::vector<PackId> packs;
  std::unordered_map<std::uint32_t, std::uint32_t> table_number;
  for (const std::uint32_t pack : unpublished_) {
    table_number[pack] = static_cast<std::uint32_t>(packs.size());
    packs.push_back(packs_[pack].id);
  }
  for (const auto& [id, fresh] : fresh_)
    if (const auto it = table_number.find(fresh.pack); it != table_number.end())
      entries.push_back({id, it->second, fresh.offset, fresh.stored, fresh.plain});

  std::vector<std::string> merged;
  if (writable_) merged = merge_small(entries, packs);
  std::vector<std::byte> bytes = encode_index(packs, entries);
  std::string name;
  if (writable_) {
    name = "index/" + random_id();
    store_.put(name, bytes);
    mount(name, store_.view(name));
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
  unpublished_.clear();
  if (!writable_) return;
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
  std::vector<const Mounted*> by_size;
  for (const Mounted& mounted : tables_)
    by_size.push_back(&mounted);
  std::sort(by_size.begin(), by_size.end(),
            [](const Mounted* a, const Mounted* b) { return a->table.size() < b->table.size(); });
  std::vector<std::string> merged;
  std::map<PackId, std::uint32_t> numbers;
  for (std::size_t i = 0; i < packs.size(); ++i)
    numbers.emplace(packs[i], static_cast<std::uint32_t>(i));
  for (const Mounted* mounted : by_size) {
    // Merging only what is at most twice as long keeps the number of objects logarithmic, and the work per entry too.
    const std::uint64_t size = mounted->table.size();
    if (size > 2 * entries.size() + 256 || size + entries.size() > merge_entries) break;
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
  if (const auto it = fresh_.find(id); it != fresh_.end() && it->second.pack != absent) {
    const Fresh& fresh = it->second;
    const Pack& pack = packs_[fresh.pack];
    found.push_back({pack.id, fresh.offset, fresh.stored, fresh.plain, pack.sealed});
  }
  for (const Mounted& mounted : tables_)
    for (std::uint64_t i = mounted.table.find(id); i < mounted.table.size(); ++i) {
      const IndexEntry entry = mounted.table.entry(i);
      if (entry.id != id) break;
      if (entry.pack >= mounted.packs.size() || mounted.packs[entry.pack] == absent) continue;
      found.push_back({packs_[mounted.packs[entry.pack]].id, entry.offset, entry.stored, entry.plain, true});
    }
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

std::uint64_t Index::size() {
  const std::scoped_lock lock(mutex_);
  std::uint64_t count = fresh_.size();
  for (const Mounted& mounted : tables_)
    count += mounted.table.size();
  return count;
}

}  // namespace stillpoint
