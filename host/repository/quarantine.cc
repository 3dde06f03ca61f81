// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/quarantine.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "host/repository/document.hh"
#include "host/repository/store.hh"

#include <fmt/format.h>

#include <algorithm>

namespace stillpoint {

namespace {

/// In one object; a pack holds fewer, and those of a longer one take several.
constexpr std::size_t most_chunks = std::size_t{1} << 18;

}  // namespace

void Quarantine::load(Store& store) {
  for (const ObjectInfo& object : store.list("quarantine")) {
    if (!loaded_.insert(object.name).second) continue;
    try {
      const Json json = open_document("quarantine", store.get(object.name, max_document_bytes), object.name);
      PackId pack;
      if (!hex_to_bytes(json_string(json, "pack", 64), pack.bytes)) throw Corruption(object.name + ": no pack");
      for (const Json& chunk : json_array(json, "chunks", most_chunks))
        add(pack, parse_chunk_id(chunk.is_string() ? chunk.get<std::string>() : ""));
    } catch (const Error& e) {
      log_warning("{}: ignored", e.what());
      problems_.emplace_back(e.what());
    }
  }
}

bool Quarantine::add(const PackId& pack, const ChunkId& chunk) {
  if (holds(pack, chunk)) return false;
  packs_[chunk].push_back(pack);
  return true;
}

void Quarantine::forget(const PackId& pack) {
  for (auto& [chunk, packs] : packs_)
    std::erase(packs, pack);
  std::erase_if(packs_, [](const auto& item) { return item.second.empty(); });
}

bool Quarantine::holds(const PackId& pack, const ChunkId& chunk) const {
  if (packs_.empty()) return false;
  const auto it = packs_.find(chunk);
  return it != packs_.end() && std::ranges::find(it->second, pack) != it->second.end();
}

void clear_quarantine(Store& store, const PackId& pack) {
  const std::string prefix = fmt::format("quarantine/{}.", bytes_to_hex(pack.bytes));
  for (const ObjectInfo& object : store.list("quarantine"))
    if (object.name.starts_with(prefix)) store.remove(object.name);
}

void put_in_quarantine(Store& store, const PackId& pack, std::span<const ChunkId> chunks) {
  while (!chunks.empty()) {
    const auto part = chunks.first(std::min(chunks.size(), most_chunks));
    Json ids = Json::array();
    for (const ChunkId& chunk : part)
      ids.push_back(to_hex(chunk));
    const Json json{{"format", 1}, {"pack", bytes_to_hex(pack.bytes)}, {"chunks", std::move(ids)}};
    store.put(fmt::format("quarantine/{}.{}", bytes_to_hex(pack.bytes), random_id()),
              as_bytes(seal_document("quarantine", json)));
    chunks = chunks.subspan(part.size());
  }
}

}  // namespace stillpoint
