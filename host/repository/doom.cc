// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/doom.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "host/repository/document.hh"
#include "host/repository/lease.hh"
#include "host/repository/store.hh"

#include <algorithm>

namespace stillpoint {

namespace {

/// More than 60 TiB of packs.
constexpr std::size_t most_packs = std::size_t{1} << 20;
/// In one doom that we write: less than 16 KiB, which a Ceph pool takes as an entry also where it is full.
constexpr std::size_t packs_per_doom = 400;

std::string write_doom(Store& store, std::span<const PackId> packs) {
  Json names = Json::array();
  for (const PackId& pack : packs)
    names.push_back(bytes_to_hex(pack.bytes));
  std::string name = "doomed/" + random_id();
  store.put(name, as_bytes(seal_document("doom", {{"format", 1}, {"packs", std::move(names)}})));
  return name;
}

}  // namespace

std::vector<std::string> write_dooms(Store& store, std::span<const PackId> packs) {
  std::vector<std::string> dooms;
  for (; !packs.empty(); packs = packs.subspan(std::min(packs.size(), packs_per_doom)))
    dooms.push_back(write_doom(store, packs.first(std::min(packs.size(), packs_per_doom))));
  return dooms;
}

std::vector<PackId> read_doom(Store& store, const std::string& name) {
  const Json json = open_document("doom", store.get(name, max_document_bytes), name);
  std::vector<PackId> packs;
  for (const Json& text : json_array(json, "packs", most_packs)) {
    PackId pack;
    if (!text.is_string() || !hex_to_bytes(text.get_ref<const std::string&>(), pack.bytes))
      throw Corruption(name + ": it names no pack");
    packs.push_back(pack);
  }
  return packs;
}

namespace {

std::string waits_of(const std::string& doom) {
  return "waits/" + doom.substr(sizeof "doomed");
}

}  // namespace

void write_waits(Store& store, const std::string& doom, const std::set<std::string>& leases) {
  store.put(waits_of(doom), as_bytes(seal_document("waits", {{"format", 1}, {"leases", leases}})));
}

std::set<std::string> read_waits(Store& store, const std::string& doom) {
  std::set<std::string> ids;
  try {
    const std::string name = waits_of(doom);
    const Json json = open_document("waits", store.get(name, max_document_bytes), name);
    for (const Json& id : json_array(json, "leases"))
      if (id.is_string()) ids.insert(id.get<std::string>());
  } catch (const Error&) {
    return shared_leases(store);
  }
  return ids;
}

void remove_doom(Store& store, const std::string& doom) {
  store.remove(doom);
  store.remove(waits_of(doom));
}

void drop_damaged_dooms(Store& store) {
  for (const ObjectInfo& object : store.list("doomed")) {
    try {
      static_cast<void>(read_doom(store, object.name));
    } catch (const NotFound&) {
      // Gone is as good.
    } catch (const Corruption& e) {
      // Not one that the store could not read just now.
      if (store.get(object.name, max_document_bytes).empty()) throw;
      log_warning("{}: deleted", e.what());
      remove_doom(store, object.name);
    }
  }
}

}  // namespace stillpoint
