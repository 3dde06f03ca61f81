// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/served-disk.hh"

#include <optional>

namespace stillpoint {

std::pair<ServedDisk, Manifest> open_to_serve(const Invocation& invocation, const std::string& name,
                                              std::vector<LoadedState>* state) {
  std::optional<KeySource> key;
  Repository repository = invocation.open(Repository::Mode::read, &key);
  Manifest manifest = repository.load(name);
  if (state != nullptr) *state = load_state(repository, manifest);
  ServedDisk disk{.repository = repository.url(), .name = manifest.name, .disk = {}, .key_file = {}, .passphrase = {}};
  if (key && !key->key_file.empty()) disk.key_file = invocation.key_file;
  if (key && key->key_file.empty()) disk.passphrase = key->passphrase;
  return {std::move(disk), std::move(manifest)};
}

}  // namespace stillpoint
