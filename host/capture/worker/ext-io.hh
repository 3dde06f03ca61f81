// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/deleter.hh"
#include "host/capture/worker/block-service.hh"
#include "host/capture/worker/ext-journal.hh"

#include <cstdint>

// Its inline functions convert signs; they are not ours to warn about.
#include <ext2fs/ext2fs.h>

namespace stillpoint {

using ExtFileSystem = CPtr<struct_ext2_filsys, ext2fs_close>;

/// Opens the file system at [offset, offset + length) of the disk, read-only. Throws CaptureError.
[[nodiscard]] ExtFileSystem open_ext(BlockService& blocks, std::uint64_t offset, std::uint64_t length);

/// What the one that is open has of its journal; empty when that was clean.
[[nodiscard]] const JournalOverlay& ext_overlay();

}  // namespace stillpoint
