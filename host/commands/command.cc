// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/command.hh"

#include "host/commands/key-source.hh"

#include <fmt/format.h>

namespace stillpoint {

const std::string& Invocation::repository() const {
  if (repository_url.empty())
    throw UsageError("no repository is named",
                     "use --repository URL, STILLPOINT_REPOSITORY, or url= in the configuration file");
  return repository_url;
}

Repository Invocation::open(Repository::Mode mode, std::optional<KeySource>* used) const {
  Repository opened(repository(), mode, [this, used] {
    KeySource key = find_key(key_file, stop);
    if (used != nullptr) *used = key;
    return key;
  });
  // Whoever gives a key means to encrypt: a configuration that somebody has changed must not talk him out of it.
  if (!opened.encrypted() && key_is_meant)
    throw ConfigError(fmt::format("a key is given, and the repository {} is not encrypted", repository()),
                      "give none, or look whether this is the repository that you mean");
  opened.set_compression(config.compression);
  return opened;
}

}  // namespace stillpoint
