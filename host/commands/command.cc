// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/command.hh"

#include "host/commands/key-source.hh"

namespace stillpoint {

const std::string& Invocation::repository() const {
  if (repository_url.empty())
    throw UsageError("no repository is named",
                     "use --repository URL, STILLPOINT_REPOSITORY, or url= in the configuration file");
  return repository_url;
}

Repository Invocation::open(Repository::Mode mode) const {
  return Repository(repository(), mode, [this] { return find_key(key_file); });
}

}  // namespace stillpoint
