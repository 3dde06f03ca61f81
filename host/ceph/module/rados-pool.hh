// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/ceph/module/cluster.hh"
#include "host/ceph/rados.hh"

namespace stillpoint {

[[nodiscard]] std::unique_ptr<RadosPool> make_rados_pool(PoolContext context);

}  // namespace stillpoint
