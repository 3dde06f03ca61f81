// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/direct-file.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <new>
#include <string>

namespace stillpoint {
namespace {

bool is_aligned(std::span<const std::byte> bytes, std::uint64_t offset) {
  return (reinterpret_cast<std::uintptr_t>(bytes.data()) | bytes.size() | offset) % direct_alignment == 0;
}

}  // namespace

DirectFile::DirectFile(int fd) noexcept : cached_(fd) {
  const std::string again = fmt::format("/proc/self/fd/{}", fd);
  direct_.reset(::open(again.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC));
}

void DirectFile::pwrite(std::span<const std::byte> bytes, std::uint64_t offset, std::string_view name) const {
  if (direct_ && is_aligned(bytes, offset)) {
    while (!bytes.empty()) {
      const ssize_t n = ::pwrite(direct_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      // EINVAL: larger blocks than ours. Other failures come again below, where they are told.
      if (n < 0 || n % static_cast<ssize_t>(direct_alignment) != 0) break;
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      offset += static_cast<std::uint64_t>(n);
    }
  }
  pwrite_all(cached_, bytes, offset, name);
}

AlignedBytes allocate_aligned(std::size_t length) {
  const std::size_t whole = (length + direct_alignment - 1) / direct_alignment * direct_alignment;
  auto* storage = static_cast<std::byte*>(std::aligned_alloc(direct_alignment, whole));
  if (storage == nullptr) throw std::bad_alloc();
  return AlignedBytes(storage);
}

}  // namespace stillpoint
