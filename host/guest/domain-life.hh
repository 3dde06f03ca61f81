// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/guest/domain.hh"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>

namespace stillpoint {

/// Starts a domain that is defined. Throws CaptureError with libvirt's reason, Unreachable.
void start_domain(const Domain& domain);

/// Ends it at once, if it runs, and takes its definition away. Throws the same; nothing for what is done already.
void remove_domain(const Domain& domain);

/// Copies a disk of a running domain into a new image while it is written to, and moves the domain over to it. `done`
/// is told the bytes copied and all of them. Throws CaptureError, Unreachable; Interrupted when it was stopped: the
/// domain goes on where it was.
void move_disk(const Domain& domain, const std::string& target, const std::filesystem::path& image,
               const std::string& format, const std::function<void(std::uint64_t, std::uint64_t)>& done,
               const std::stop_token& stop);

/// Ends a copy of a disk that move_disk() has begun and not ended, for its program was killed. Throws CaptureError,
/// Unreachable.
void end_copy(const Domain& domain, const std::string& target);

}  // namespace stillpoint
