// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <filesystem>

namespace stillpoint {

/// Where the appliance's worker may write.
struct WritablePlaces {
  std::filesystem::path temporary;  ///< an empty directory of its own
  std::filesystem::path cache;      ///< where the appliance is kept once it is built; empty for libguestfs' own choice
};

/// Gives up what an emulator and its helpers do not need: as root becomes nobody, with the group that may use /dev/kvm.
/// Runs on in a child in namespaces of its own (processes, network, mounts), where the system permits that, so that
/// nothing outlives it; the parent ends with it. Throws Error.
[[nodiscard]] WritablePlaces confine();

/// The same for what has to mount: it must be root, stays so with the rights to mount and to read everything, and the
/// namespaces are not left out. Throws Error, CaptureError.
[[nodiscard]] WritablePlaces confine_to_mount();

}  // namespace stillpoint
