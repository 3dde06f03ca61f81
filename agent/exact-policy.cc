// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/exact-policy.hh"

#include "common/errors.hh"

#include <fmt/format.h>

namespace stillpoint {

void refuse_unless_exact(std::span<const DatabaseReport> databases) {
  for (const DatabaseReport& database : databases)
    if (database.exactness != Exactness::exact)
      throw QuiesceError(fmt::format("exact=require in agent.conf, and {} {} {} is {}: {}", database.engine,
                                     database.instance,
                                     database.database.empty() ? "(what belongs to no database)" : database.database,
                                     to_string(database.exactness), database.reason));
}

}  // namespace stillpoint
