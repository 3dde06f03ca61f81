// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/worker/block-service.hh"

#include <cstdint>
#include <string_view>

namespace stillpoint {

/// Sends the entries at and below `path` to the parent, parents first; in a directory by inode number, which is near
/// the order on the disk. Throws NotFound, CaptureError.
void walk_ext(BlockService& blocks, Parent& parent, std::uint64_t offset, std::uint64_t length, std::string_view path,
              bool recursive);

}  // namespace stillpoint
