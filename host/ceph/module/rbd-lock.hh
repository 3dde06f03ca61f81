// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/ceph/module/cluster.hh"
#include "host/ceph/rbd.hh"

#include <rbd/librbd.h>

namespace stillpoint {

/// `id`: the image's. `image` outlives this call only.
[[nodiscard]] std::unique_ptr<RbdLock> make_rbd_lock(std::shared_ptr<PoolContext> context, rbd_image_t image,
                                                     const std::string& id, const std::string& words);

}  // namespace stillpoint
