// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/ceph/module/cluster.hh"
#include "host/ceph/rbd.hh"

#include <rbd/librbd.h>

namespace stillpoint {

/// `id`: the image's. `image` outlives this call only.
[[nodiscard]] std::unique_ptr<RbdLock> make_rbd_lock(std::shared_ptr<PoolContext> context, rbd_image_t image,
                                                     const std::string& id, const std::string& words);

/// The address of a holder of that lock who has died on this machine; empty when there is none.
[[nodiscard]] std::string dead_lock_holder(const PoolContext& context, const std::string& id);
/// Whether two addresses are one client's. One may say by which protocol ("v2:127.0.0.1:0/4711"), the other not.
[[nodiscard]] bool same_client(std::string_view a, std::string_view b);

}  // namespace stillpoint
