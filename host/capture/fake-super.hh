// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/tree-entry.hh"
#include "host/capture/tree-metadata.hh"

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

/// How rsync(1) keeps, with --fake-super, what only root can set: every object is a file or a directory of whoever runs
/// it, and attributes in "user." say the rest.
namespace stillpoint::fake_super {

/// The permissions that the object itself gets: its owner can always read and write it.
[[nodiscard]] std::uint32_t mode(const Metadata& metadata) noexcept;

/// Its attributes, when the object itself belongs to `uid` and `gid`. Sorted by name.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> attributes(const Metadata& metadata, uid_t uid,
                                                                          gid_t gid);

}  // namespace stillpoint::fake_super
