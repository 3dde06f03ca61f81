// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/replica-place.hh"

#include "common/errors.hh"
#include "common/text.hh"

#include <fmt/format.h>

#include <filesystem>

namespace stillpoint {

ReplicaPlace parse_replica_place(const std::string& text, const std::string& user) {
  constexpr std::string_view prefix = "rbd:";
  const std::size_t at = text.find('@');
  if (!text.starts_with(prefix) || (at != std::string::npos && at + 1 == text.size()))
    throw UsageError(fmt::format("'{}' is no place for replicas", printable(text)),
                     "write rbd:POOL or rbd:POOL/NAMESPACE, with @/PATH/TO/ceph.conf for another cluster");
  ReplicaPlace place;
  place.pool = parse_rbd_pool(text.substr(prefix.size(), at == std::string::npos ? at : at - prefix.size()), false);
  if (at != std::string::npos) place.address.conf = std::filesystem::absolute(text.substr(at + 1)).native();
  place.address.user = user;
  return place;
}

std::string words_of(const RbdPlace& pool, const std::string& fsid) {
  return fmt::format("rbd:{}{}{} of cluster {}", pool.pool, pool.name_space.empty() ? "" : "/", pool.name_space, fsid);
}

}  // namespace stillpoint
