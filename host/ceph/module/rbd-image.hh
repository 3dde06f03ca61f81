// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/ceph/module/cluster.hh"
#include "host/ceph/rbd.hh"

#include <rbd/librbd.h>

namespace stillpoint {

/// Takes the opened image.
[[nodiscard]] std::unique_ptr<RbdImage> make_rbd_image(std::shared_ptr<PoolContext> context, RbdPlace place,
                                                       rbd_image_t image);

}  // namespace stillpoint
