// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/ceph/module/cluster.hh"
#include "host/ceph/rbd.hh"

namespace stillpoint {

[[nodiscard]] std::unique_ptr<RbdPool> make_rbd_pool(PoolContext context);

}  // namespace stillpoint
