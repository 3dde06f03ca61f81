// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/program.hh"

#include <cstdint>
#include <filesystem>
#include <vector>

namespace stillpoint {

enum class BlocksAccess {
  read_only,
  overlay,  ///< what is written goes to a file in `temporary`, and is gone with the server
};

/// nbdkit, which brings blocks from the companion, over the descriptor: an export "0", "1", ... of each size in bytes,
/// on the socket `temporary`/blocks. It ends with this process. Throws CaptureError.
[[nodiscard]] RunningProgram start_blocks_server(const std::filesystem::path& temporary,
                                                 const std::vector<std::uint64_t>& sizes, int blocks_fd,
                                                 BlocksAccess access);

}  // namespace stillpoint
