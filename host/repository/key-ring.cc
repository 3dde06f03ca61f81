// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/key-ring.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "host/repository/chunk-id.hh"
#include "host/repository/document.hh"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <array>
#include <exception>
#include <map>
#include <optional>
#include <set>

namespace stillpoint {

namespace {

constexpr std::uint64_t longest_key = 1 << 16;
/// The master key is random: it needs no salt, and OpenSSL takes no empty one.
constexpr std::string_view salt_of_all = "stillpoint";
constexpr std::size_t salt_bytes = 32;
constexpr std::size_t least_key_file = 32;
/// A damaged or forged key must not make us use all memory: 1 GiB.
constexpr std::uint64_t most_memory = std::uint64_t{1} << 30;

using Salt = std::array<std::byte, salt_bytes>;
using Nonce = std::array<std::byte, cipher_nonce_bytes>;
using Wrapped = std::array<std::byte, Secret::size + cipher_tag_bytes>;

template <std::size_t Size>
std::array<std::byte, Size> hex_field(const Json& json, std::string_view name, std::string_view object) {
  std::array<std::byte, Size> bytes;
  if (!hex_to_bytes(json_string(json, name, 2 * Size), bytes))
    throw Corruption(fmt::format("{}: '{}' is damaged", object, name));
  return bytes;
}

Secret key_from_file(std::string_view content, const Salt& salt) {
  return derive_secret(as_bytes(content), salt, "stillpoint key file");
}

ScryptCost read_cost(const Json& json, std::string_view object) {
  ScryptCost cost;
  cost.n = json_uint(json, "n");
  cost.r = static_cast<std::uint32_t>(json_uint(json, "r", 64));
  cost.p = static_cast<std::uint32_t>(json_uint(json, "p", 16));
  const bool too_large_for_r = cost.r < 4 && cost.n >= std::uint64_t{1} << (16 * cost.r);  // RFC 7914
  if (cost.n < 2 || too_large_for_r || (cost.n & (cost.n - 1)) != 0 || cost.r == 0 || cost.p == 0 ||
      cost.n > most_memory / 128 / cost.r)
    throw Corruption(fmt::format("{}: its cost is out of bounds", object));
  return cost;
}

std::string object_of(const std::string& id) {
  return "keys/" + id;
}
std::string copy_of(const std::string& id) {
  return object_of(id) + ".copy";
}

/// The ids of all keys, also of those of which one of the two objects is gone.
std::set<std::string> key_ids(Store& store) {
  std::set<std::string> ids;
  for (const ObjectInfo& object : store.list("keys")) {
    std::string_view name = object.name;
    name.remove_prefix(sizeof "keys");
    if (name.ends_with(".copy")) name.remove_suffix(5);
    ids.emplace(name);
  }
  return ids;
}

Json read_object(Store& store, const std::string& object) {
  return open_document("key", store.get(object, longest_key), object);
}

/// Either of its two objects will do. Throws NotFound, Corruption.
Json read_key(Store& store, const std::string& id) {
  try {
    return read_object(store, object_of(id));
  } catch (const Error& e) {
    try {
      Json json = read_object(store, copy_of(id));
      log_warning("{}; its copy was read instead", e.what());
      return json;
    } catch (const NotFound&) {
    }
    throw;
  }
}

}  // namespace

KeySource::~KeySource() {
  OPENSSL_cleanse(passphrase.data(), passphrase.size());
  OPENSSL_cleanse(key_file.data(), key_file.size());
}

RepositoryKeys::RepositoryKeys(const Secret& master)
    : ids(derive_secret(master.bytes(), as_bytes(salt_of_all), "stillpoint chunk ids")),
      data(derive_secret(master.bytes(), as_bytes(salt_of_all), "stillpoint records")),
      documents(derive_secret(master.bytes(), as_bytes(salt_of_all), "stillpoint documents")) {}

std::string KeyRing::add(const Secret& master, const KeySource& source, std::string_view label) {
  constexpr std::size_t longest_label = 200;
  if (label.size() > longest_label) throw UsageError("the label is longer than 200 bytes");
  const bool by_file = !source.key_file.empty();
  if (by_file && source.key_file.size() < least_key_file)
    throw ConfigError(fmt::format("the key file has {} bytes, less than {}", source.key_file.size(), least_key_file),
                      "make one with: head -c 64 /dev/urandom > FILE");
  if (!by_file && source.passphrase.empty()) throw ConfigError("the passphrase is empty");
  Salt salt;
  Nonce nonce;
  fill_random(salt);
  fill_random(nonce);
  const ScryptCost cost;
  const Secret key =
      by_file ? key_from_file(source.key_file, salt) : derive_from_passphrase(source.passphrase, salt, cost);
  Wrapped wrapped;
  Cipher(key).seal(nonce, as_bytes(repository_), master.bytes(), wrapped);
  Json json{{"format", 1},
            {"repository", repository_},
            {"kind", by_file ? "key-file" : "passphrase"},
            {"label", label},
            {"created", format_time(wall_now())},
            {"salt", bytes_to_hex(salt)},
            {"nonce", bytes_to_hex(nonce)},
            {"wrapped", bytes_to_hex(wrapped)}};
  if (!by_file) json["scrypt"] = {{"n", cost.n}, {"r", cost.r}, {"p", cost.p}};
  std::string id = random_id();
  // Twice: without a key everything else is lost.
  const std::string document = seal_document("key", json);
  store_.put(object_of(id), as_bytes(document));
  try {
    store_.put(copy_of(id), as_bytes(document));
  } catch (...) {
    // The caller is told that there is no such key: then it must not open anything.
    store_.remove(object_of(id));
    throw;
  }
  return id;
}

Secret KeyRing::open(const KeySource& source) {
  const bool by_file = !source.key_file.empty();
  std::size_t tried = 0;
  for (const std::string& id : key_ids(store_)) {
    const std::string object = object_of(id);
    try {
      const Json json = read_key(store_, id);
      if ((json_string(json, "kind", 64) == "key-file") != by_file) continue;
      ++tried;
      const Salt salt = hex_field<salt_bytes>(json, "salt", object);
      const Secret key =
          by_file ? key_from_file(source.key_file, salt)
                  : derive_from_passphrase(source.passphrase, salt, read_cost(json_object(json, "scrypt"), object));
      Secret master;
      if (Cipher(key).open(hex_field<cipher_nonce_bytes>(json, "nonce", object), as_bytes(repository_),
                           hex_field<sizeof(Wrapped)>(json, "wrapped", object), master.writable()))
        return master;
    } catch (const NotFound&) {
      continue;
    } catch (const Error& e) {
      // Another one may still do.
      log_warning("{}: {}", object, e.what());
    }
  }
  throw ConfigError(
      fmt::format("the {} opens none of the {} keys of its kind", by_file ? "key file" : "passphrase", tried),
      "give another one; without a key nobody can read this repository");
}

std::vector<KeyInfo> KeyRing::list() {
  std::vector<KeyInfo> keys;
  for (const std::string& id : key_ids(store_)) {
    const std::string object = object_of(id);
    KeyInfo key;
    key.id = id;
    try {
      const Json json = read_key(store_, id);
      key.label = json_string_or(json, "label", "", longest_key);
      key.created = json_string(json, "created", 64);
      static_cast<void>(hex_field<salt_bytes>(json, "salt", object));
      static_cast<void>(hex_field<cipher_nonce_bytes>(json, "nonce", object));
      static_cast<void>(hex_field<sizeof(Wrapped)>(json, "wrapped", object));
      const std::string kind = json_string(json, "kind", 64);
      if (kind == "passphrase") static_cast<void>(read_cost(json_object(json, "scrypt"), object));
      const bool usable = (kind == "passphrase" || kind == "key-file") && json_uint(json, "format") == 1 &&
                          json_string(json, "repository", 64) == repository_;
      key.kind = usable ? kind : "damaged";
    } catch (const Error& e) {
      key.kind = "damaged";
    }
    keys.push_back(std::move(key));
  }
  std::ranges::sort(keys, {}, [](const KeyInfo& key) { return std::pair(key.created, key.id); });
  return keys;
}

std::vector<std::string> KeyRing::problems(bool mend) {
  std::vector<std::string> problems;
  for (const std::string& id : key_ids(store_)) {
    std::map<std::string, std::string> faults;  // by object
    for (const std::string& object : {object_of(id), copy_of(id)}) {
      try {
        static_cast<void>(read_object(store_, object));
      } catch (const Error& e) {
        faults.emplace(object, e.what());
      }
    }
    for (const auto& [object, fault] : faults) {
      if (faults.size() > 1) {
        problems.push_back(fmt::format("{}; nothing opens the repository by this key any more", fault));
      } else if (mend && store_.may_remove()) {
        const std::string whole = store_.get(object == object_of(id) ? copy_of(id) : object_of(id), longest_key);
        store_.remove(object);
        store_.put(object, as_bytes(whole));
        problems.push_back(fmt::format("{}; it was written anew from its copy", fault));
      } else {
        problems.push_back(fmt::format("{}; its copy is whole, and verify without --read-only writes it anew", fault));
      }
    }
  }
  return problems;
}

void KeyRing::remove(const std::string& id) {
  // Two of these at once could each leave the other's key as the last one.
  const std::unique_ptr<StoreLock> lock = store_.try_lock("keys");
  if (!lock) throw Locked("somebody else removes a key", "try again");
  const auto is_last = [&id](const std::vector<KeyInfo>& keys) {
    return std::ranges::none_of(keys, [&](const KeyInfo& key) { return key.id != id && key.kind != "damaged"; });
  };
  const std::vector<KeyInfo> keys = list();
  if (std::ranges::find(keys, id, &KeyInfo::id) == keys.end())
    throw NotFound(fmt::format("there is no key {}", id), "'stillpoint key list' shows them");
  if (is_last(keys))
    throw UsageError("this is the last key: without it nobody could read the repository", "add another one first");
  std::optional<std::string> document;
  try {
    document = seal_document("key", read_key(store_, id));
  } catch (const NotFound&) {
  } catch (const Corruption&) {
  }
  store_.remove(object_of(id));
  store_.remove(copy_of(id));
  // In a Ceph pool a lock ends while its holder stands still, and whoever took it may have removed the others.
  if (!document) return;
  std::exception_ptr failure;
  try {
    if (!is_last(list())) return;
  } catch (const Error&) {
    failure = std::current_exception();
  }
  for (const std::string& object : {object_of(id), copy_of(id)})
    store_.put(object, as_bytes(*document));
  if (failure) std::rethrow_exception(failure);
  throw Locked("somebody else has removed the other keys meanwhile: this one is the last, and was put back",
               "add another one first");
}

}  // namespace stillpoint
