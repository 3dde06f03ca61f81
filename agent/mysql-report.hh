// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/mysql-dump.hh"
#include "agent/mysql-server.hh"
#include "common/report.hh"

#include <vector>

namespace stillpoint::mysql {

/// Names the tables of that dump which its snapshot does not show as they were: the first hundred by name, the rest by
/// number.
void list_tables_without_transactions(const Catalogue& catalogue, const DumpScope& scope,
                                      std::vector<NotCovered>& not_covered);

}  // namespace stillpoint::mysql
