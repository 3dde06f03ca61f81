// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

namespace stillpoint {

/// Runs libvirt's default event loop in a thread of its own until the program ends: keep-alive messages and streams
/// live on it. Call it before the first connection is opened; idempotent. Throws Error.
void start_event_loop();

}  // namespace stillpoint
