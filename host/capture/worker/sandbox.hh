// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

namespace stillpoint {

/// Gives up everything but reading and writing one descriptor: own uid and namespaces where permitted, no capability,
/// no new file, process, socket or executable page, bounded memory and CPU time. Throws Error when the last of these
/// walls, the system call filter, cannot be built.
void enter_sandbox();

}  // namespace stillpoint
