// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace stillpoint {

/// Owns a file descriptor; -1 owns nothing.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  void reset(int fd = -1) noexcept;

 private:
  int fd_ = -1;
};

/// Opens with O_CLOEXEC. Throws Error naming the path.
[[nodiscard]] UniqueFd open_file(const std::filesystem::path& path, int flags, unsigned mode = 0644);

/// Opens a directory for openat() and fsync().
[[nodiscard]] UniqueFd open_directory(const std::filesystem::path& path);

/// Reads exactly `buffer.size()` bytes at `offset`, however often the kernel splits it. Throws Error; `name` is for the
/// message.
void pread_exactly(int fd, std::span<std::byte> buffer, std::uint64_t offset, std::string_view name);

/// Writes all of it. Throws StorageError.
void write_all(int fd, std::span<const std::byte> buffer, std::string_view name);
void pwrite_all(int fd, std::span<const std::byte> buffer, std::uint64_t offset, std::string_view name);

/// fsync; throws StorageError.
void sync_file(int fd, std::string_view name);
void sync_directory(const std::filesystem::path& path);

/// rename(2) that fails with EEXIST instead of replacing, as well as the file system can. Returns -1 with errno.
[[nodiscard]] int rename_without_replacing(const std::filesystem::path& from, const std::filesystem::path& to) noexcept;

/// The whole file as text, refused when it is longer than `limit` bytes. Throws Error.
[[nodiscard]] std::string read_text(const std::filesystem::path& path, std::size_t limit);

/// Durably replaces `path`: temporary file beside it, fsync, rename, fsync of the directory. Throws StorageError.
void replace_file(const std::filesystem::path& path, std::string_view text, unsigned mode = 0644);

[[nodiscard]] inline std::span<const std::byte> as_bytes(std::string_view text) noexcept {
  return std::as_bytes(std::span(text.data(), text.size()));
}
[[nodiscard]] inline std::string_view as_text(std::span<const std::byte> bytes) noexcept {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace stillpoint
