// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/file.hh"

#include "common/errors.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace stillpoint {

void UniqueFd::reset(int fd) noexcept {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

UniqueFd open_file(const std::filesystem::path& path, int flags, unsigned mode) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) {
    const std::string what = fmt::format("cannot open {}", path.native());
    if ((flags & O_ACCMODE) != O_RDONLY) throw_storage_errno(what, errno);
    throw_errno(what);
  }
  return fd;
}

UniqueFd open_directory(const std::filesystem::path& path) {
  return open_file(path, O_RDONLY | O_DIRECTORY);
}

void pread_exactly(int fd, std::span<std::byte> buffer, std::uint64_t offset, std::string_view name) {
  while (!buffer.empty()) {
    const ssize_t n = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno(fmt::format("cannot read {}", name));
    if (n == 0)
      throw Error(fmt::format("{} ends at {} where {} more bytes were expected", name, offset, buffer.size()));
    buffer = buffer.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

void write_all(int fd, std::span<const std::byte> buffer, std::string_view name) {
  while (!buffer.empty()) {
    const ssize_t n = ::write(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_storage_errno(fmt::format("cannot write {}", name), errno);
    buffer = buffer.subspan(static_cast<std::size_t>(n));
  }
}

void pwrite_all(int fd, std::span<const std::byte> buffer, std::uint64_t offset, std::string_view name) {
  while (!buffer.empty()) {
    const ssize_t n = ::pwrite(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_storage_errno(fmt::format("cannot write {}", name), errno);
    buffer = buffer.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

void sync_file(int fd, std::string_view name) {
  if (::fsync(fd) != 0) throw_storage_errno(fmt::format("cannot sync {}", name), errno);
}

void sync_directory(const std::filesystem::path& path) {
  sync_file(open_directory(path).get(), path.native());
}

int rename_without_replacing(const std::filesystem::path& from, const std::filesystem::path& to) noexcept {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return -1;
  // NFS and others know no flags. A link does not replace either, but directories and some file systems have none.
  if (::link(from.c_str(), to.c_str()) == 0) {
    ::unlink(from.c_str());
    return 0;
  }
  if (errno == EEXIST) return -1;
  struct stat status {};
  if (::lstat(to.c_str(), &status) == 0) {
    errno = EEXIST;
    return -1;
  }
  return ::rename(from.c_str(), to.c_str());
}

std::string read_text(const std::filesystem::path& path, std::size_t limit) {
  const UniqueFd fd = open_file(path, O_RDONLY);
  std::string text;
  char buffer[16384];
  for (;;) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno(fmt::format("cannot read {}", path.native()));
    if (n == 0) return text;
    text.append(buffer, static_cast<std::size_t>(n));
    if (text.size() > limit) throw Error(fmt::format("{} is longer than {} bytes", path.native(), limit));
  }
}

void replace_file(const std::filesystem::path& path, std::string_view text, unsigned mode) {
  const std::filesystem::path temporary = path.native() + fmt::format(".{}.tmp", ::getpid());
  try {
    const UniqueFd fd = open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode);
    write_all(fd.get(), as_bytes(text), temporary.native());
    sync_file(fd.get(), temporary.native());
    if (::rename(temporary.c_str(), path.c_str()) != 0)
      throw_storage_errno(fmt::format("cannot rename {} to {}", temporary.native(), path.native()), errno);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_directory(path.parent_path());
}

}  // namespace stillpoint
