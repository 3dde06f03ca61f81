// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/dump-name.hh"

#include "common/protocol.hh"

namespace stillpoint {

std::string dump_part(std::string_view database) {
  if (database.starts_with('@')) return "%40" + protocol::dump_name_part(database.substr(1));
  return protocol::dump_name_part(database);
}

}  // namespace stillpoint
