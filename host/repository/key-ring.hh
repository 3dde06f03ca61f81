// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/cipher.hh"
#include "host/repository/store.hh"

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// What opens an encrypted repository. One of the two.
struct KeySource {
  std::string passphrase;
  std::string key_file;  ///< its content, at least 32 bytes

  KeySource() = default;
  KeySource(const KeySource&) = default;
  KeySource& operator=(const KeySource&) = default;
  ~KeySource();
};
/// Asked only when a repository is encrypted. May throw ConfigError that says how to give one.
using AskForKey = std::function<KeySource()>;

/// The secrets of a repository, derived from its master key.
struct RepositoryKeys {
  explicit RepositoryKeys(const Secret& master);
  Secret ids;        ///< chunks are named by an HMAC under it: nobody can tell from a name what is stored
  Secret data;       ///< of records: a key of its own for each writer is derived from it
  Secret documents;  ///< of manifests
};

/// One way to the master key: an object `keys/ID`, and its copy `keys/ID.copy`.
struct KeyInfo {
  std::string id;    ///< is_id
  std::string kind;  ///< "passphrase" or "key-file"
  std::string label;
  std::string created;
};

/// Keys wrap the master key, so they come and go without a chunk being written anew.
class KeyRing {
 public:
  /// `repository`: its id, which is bound to each key.
  KeyRing(Store& store, std::string repository) : store_(store), repository_(std::move(repository)) {}

  /// Throws ConfigError for a passphrase that is empty or a key file that is too short.
  std::string add(const Secret& master, const KeySource& source, std::string_view label);
  /// Throws ConfigError when it opens none of the keys.
  [[nodiscard]] Secret open(const KeySource& source);
  [[nodiscard]] std::vector<KeyInfo> list();
  /// What is wrong with the objects that keys are kept in; one of the two of each is enough, and `mend` writes the
  /// other one anew.
  [[nodiscard]] std::vector<std::string> problems(bool mend);
  /// Throws NotFound; UsageError for the last one.
  void remove(const std::string& id);

 private:
  Store& store_;
  std::string repository_;
};

}  // namespace stillpoint
