// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string_view>

namespace stillpoint {

/// What O_DIRECT asks of offsets, lengths and addresses everywhere.
inline constexpr std::size_t direct_alignment = 4096;

/// Writes past the page cache where offset, length and address are multiples of direct_alignment and the file system
/// can: what nobody reads soon would only push out what the guests use, and is copied once less. Writes through the
/// cache otherwise. May be used by several threads.
class DirectFile {
 public:
  /// `fd` is the caller's and stays open as long as this lives; open for writing.
  explicit DirectFile(int fd) noexcept;

  /// Whether the file system can.
  [[nodiscard]] bool is_direct() const noexcept { return static_cast<bool>(direct_); }

  /// Writes all of it. Throws StorageError; `name` is for the message.
  void pwrite(std::span<const std::byte> bytes, std::uint64_t offset, std::string_view name) const;

 private:
  int cached_;
  UniqueFd direct_;  ///< nothing where the file system has no such thing
};

struct Free {
  void operator()(std::byte* storage) const noexcept { std::free(storage); }
};
/// Memory that starts at a multiple of direct_alignment.
using AlignedBytes = std::unique_ptr<std::byte[], Free>;
/// Throws std::bad_alloc.
[[nodiscard]] AlignedBytes allocate_aligned(std::size_t length);

}  // namespace stillpoint
