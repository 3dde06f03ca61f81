// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/json.hh"
#include "common/tree-entry.hh"

#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// "file", "directory", "symlink", "fifo", "socket", "character device", "block device".
[[nodiscard]] std::string_view type_name(EntryType type);

/// "drwxr-sr-x", as ls(1) writes it.
[[nodiscard]] std::string mode_text(const TreeEntry& entry);

/// A line for each: mode, owner, size, time, name; printable.
[[nodiscard]] std::string entries_text(const std::vector<TreeEntry>& entries);

/// Name, type, mode, owner, size, times, link target. Bytes that are no UTF-8 are lost: JSON has none.
[[nodiscard]] Json entry_json(const TreeEntry& entry);

}  // namespace stillpoint
