// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

namespace stillpoint {

/// What the two sides of a thaw guard's socket say, one byte each. Anything else from the guard is why it cannot arm.
inline constexpr char guard_armed = '+';   ///< guard: the domain is reached, freeze now
inline constexpr char guard_acted = 'T';   ///< guard: it lasted too long, I thaw
inline constexpr char guard_disarm = 'd';  ///< to the guard: the guest is thawed, go

}  // namespace stillpoint
