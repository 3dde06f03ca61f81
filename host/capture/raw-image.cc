// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/raw-image.hh"

#include "common/errors.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace stillpoint {
namespace {

/// Bounds an answer of extents(), which may be cut short.
constexpr std::size_t most_extents = 4096;
/// Whoever has an image open for writing has locked this byte of it (QEMU, block/file-posix.c).
constexpr off_t qemu_write_lock = 101;

bool is_written_by_qemu(int fd) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = qemu_write_lock;
  lock.l_len = 1;
  return ::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

}  // namespace

RawImage::RawImage(const std::filesystem::path& path) : name_(path.native()) {
  fd_ = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd_ && errno == ENOENT) throw UsageError(fmt::format("there is no image {}", name_), "check the path");
  if (!fd_) throw_errno<CaptureError>(fmt::format("cannot open {}", name_));
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) throw_errno<CaptureError>(fmt::format("cannot look at {}", name_));
  if (S_ISREG(status.st_mode)) {
    size_ = static_cast<std::uint64_t>(status.st_size);
    tells_holes_ = true;
  } else if (S_ISBLK(status.st_mode)) {
    if (::ioctl(fd_.get(), BLKGETSIZE64, &size_) != 0)
      throw_errno<CaptureError>(fmt::format("cannot measure {}", name_));
  } else {
    throw UsageError(fmt::format("{} is neither a file nor a block device", name_), "name a disk image");
  }
  if (is_written_by_qemu(fd_.get()))
    throw CaptureError(fmt::format("{} is in use by a guest", name_), "back the guest up by its name");
  // Only hints: what they cannot do, reading does.
  static_cast<void>(::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_SEQUENTIAL));
}

void RawImage::check_range(std::uint64_t offset, std::uint64_t length) const {
  if (offset > size_ || length > size_ - offset)
    throw CaptureError(fmt::format("{}: {} bytes at {} lie outside its {} bytes", name_, length, offset, size_));
}

void RawImage::pread(std::span<std::byte> buffer, std::uint64_t offset) {
  check_range(offset, buffer.size());
  try {
    pread_exactly(fd_.get(), buffer, offset, name_);
  } catch (const Error& error) {
    throw CaptureError(error.what());
  }
}

std::vector<Extent> RawImage::extents(std::uint64_t offset, std::uint64_t length) {
  check_range(offset, length);
  if (!tells_holes_) return length == 0 ? std::vector<Extent>() : std::vector<Extent>{{offset, length, true}};
  std::vector<Extent> result;
  const std::uint64_t end = offset + length;
  bool data = false;
  while (offset < end && result.size() < most_extents) {
    data = !data;
    const off_t found = ::lseek(fd_.get(), static_cast<off_t>(offset), data ? SEEK_HOLE : SEEK_DATA);
    // ENXIO: no data up to the end. What cannot tell is all data.
    if (found < 0 && errno != ENXIO) {
      result.push_back({offset, end - offset, true});
      break;
    }
    const std::uint64_t until = found < 0 ? end : std::min(static_cast<std::uint64_t>(found), end);
    if (until <= offset) continue;
    result.push_back({offset, until - offset, data});
    offset = until;
  }
  return result;
}

void RawImage::start_read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) {
  check_range(offset, buffer.size());
  static_cast<void>(
      ::posix_fadvise(fd_.get(), static_cast<off_t>(offset), static_cast<off_t>(buffer.size()), POSIX_FADV_WILLNEED));
  started_.push_back({buffer, offset, tag});
}

std::optional<std::uint64_t> RawImage::next_read(std::chrono::milliseconds patience) {
  // Who would not wait starts more reads first: the kernel fetches all of them meanwhile.
  if (started_.empty() || patience <= std::chrono::milliseconds(0)) return std::nullopt;
  const Read read = started_.front();
  started_.pop_front();
  pread(read.buffer, read.offset);
  return read.tag;
}

}  // namespace stillpoint
