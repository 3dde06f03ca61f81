// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/errors.hh"
#include "host/ceph/cluster.hh"
#include "host/ceph/rbd.hh"
#include "host/restore/disk-target.hh"

#include <cstdint>
#include <span>

namespace stillpoint {

/// A failed write is the target's fault here.
template <typename F>
void as_storage_error(const F& work) {
  try {
    work();
  } catch (const CephError& error) {
    if (error.exit_code() != ExitCode::capture) throw;
    throw StorageError(error.what(), error.hint());
  }
}

/// Returns when all of it is written. `sparse`: without long runs of zeros. Throws CephError, Unreachable.
void write_to_rbd(RbdImage& image, std::span<const DiskTarget::Piece> pieces, bool sparse);

/// Discards what the image, or its parent, has in the range; the more there is, the longer it takes. Throws the same.
void zero_in_rbd(RbdImage& image, std::uint64_t offset, std::uint64_t length);

}  // namespace stillpoint
