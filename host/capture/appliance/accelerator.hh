// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <filesystem>

namespace stillpoint {

/// Whether a guest really runs under KVM here: a /dev/kvm that opens is no proof. Boots a sector that ends at once, at
/// most a few seconds long, in the directory `temporary`.
[[nodiscard]] bool kvm_works(const std::filesystem::path& temporary);

}  // namespace stillpoint
