// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstdint>
#include <filesystem>

namespace stillpoint {

/// Makes an empty qcow2 image of `size` bytes (as the guest sees it) by `qemu-img create`. Throws StorageError with
/// its own words.
void create_qcow2(const std::filesystem::path& path, std::uint64_t size);

}  // namespace stillpoint
