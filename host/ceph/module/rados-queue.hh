// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/ceph/module/cluster.hh"
#include "host/ceph/rados.hh"

#include <memory>

namespace stillpoint {

[[nodiscard]] std::unique_ptr<RadosQueue> make_rados_queue(std::shared_ptr<PoolContext> context);

}  // namespace stillpoint
