// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/pack.hh"

#include <set>
#include <span>
#include <string>
#include <vector>

namespace stillpoint {

class Store;

/// Packs that prune is going to delete, as an object of the store. A doom is final: whoever reads it relies on nothing
/// that only these packs hold, and what is still needed of them is written anew. So deleting one is right whenever it
/// happens, once those who began before the doom have ended.

/// Writes one, or several, each small enough for a pool that is full; returns their names. Throws StorageError.
[[nodiscard]] std::vector<std::string> write_dooms(Store& store, std::span<const PackId> packs);
/// Throws NotFound, Corruption.
[[nodiscard]] std::vector<PackId> read_doom(Store& store, const std::string& name);

/// The leases that were held when it was written; a doom is carried out when all of them have ended.
void write_waits(Store& store, const std::string& doom, const std::set<std::string>& leases);
/// Where none is written down: all that are held now.
[[nodiscard]] std::set<std::string> read_waits(Store& store, const std::string& doom);

/// With what is written down about it.
void remove_doom(Store& store, const std::string& doom);

/// Damaged ones are of no use: their packs are found again. For prune alone, before it opens the index.
void drop_damaged_dooms(Store& store);

}  // namespace stillpoint
