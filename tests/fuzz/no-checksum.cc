// SPDX-License-Identifier: LGPL-2.1-or-later
// Stands in for crc32c() (--wrap): with checksums that always fit where there are zeros, what lies behind them is
// reached.
#include <cstddef>
#include <cstdint>
#include <span>

namespace stillpoint {

// NOLINTNEXTLINE: the name is the linker's
extern "C" std::uint32_t __wrap__ZN10stillpoint6crc32cESt4spanIKSt4byteLm18446744073709551615EE(
    std::span<const std::byte>) noexcept {
  return 0;
}

}  // namespace stillpoint
