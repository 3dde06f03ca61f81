// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

namespace stillpoint {

/// Levels of zstd that chunks are compressed with; 0: not at all. Each reads as any other.
inline constexpr int default_compression = 1;
inline constexpr int max_compression = 19;

}  // namespace stillpoint
