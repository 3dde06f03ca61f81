// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/ceph/cluster.hh"
#include "host/ceph/rbd.hh"

#include <string>

namespace stillpoint {

/// Where replicas are.
struct ReplicaPlace {
  CephAddress address;
  RbdPlace pool;  ///< without an image
};

/// Reads "rbd:POOL[/NAMESPACE][@CONF]". `user` as in CephAddress. Throws UsageError.
[[nodiscard]] ReplicaPlace parse_replica_place(const std::string& text, const std::string& user);
/// "rbd:pool/namespace of cluster FSID"
[[nodiscard]] std::string words_of(const RbdPlace& pool, const std::string& fsid);

}  // namespace stillpoint
