// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/disk-target.hh"

#include "common/clock.hh"
#include "common/direct-file.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/qcow2-image.hh"
#include "host/capture/nbd-session.hh"
#include "host/restore/disk-pieces.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace stillpoint {
namespace {

/// A file that exists under another name until it is complete.
class PartialFile {
 public:
  PartialFile(const std::filesystem::path& path, bool overwrite)
      : path_(resolve(path)),
        partial_(path_.native() + fmt::format(".{}.partial", random_id().substr(0, 8))),
        overwrite_(overwrite) {
    struct stat status {};
    if (::lstat(path_.c_str(), &status) == 0) {
      if (!S_ISREG(status.st_mode)) throw UsageError(fmt::format("{} is neither a file nor a block device", name()));
      if (!overwrite)
        throw UsageError(fmt::format("{} exists already", name()), "name another file, or use --overwrite");
      mode_ = status.st_mode & 07777;
    }
    // A disk holds its guest's secrets: for its owner only, unless the file that it replaces said otherwise.
    fd_ = open_file(partial_, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (::fchmod(fd_.get(), mode_) != 0) throw_storage_errno(fmt::format("cannot set the mode of {}", name()), errno);
  }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;
  ~PartialFile() {
    if (!complete_) ::unlink(partial_.c_str());
  }

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] const std::string& name() const noexcept { return path_.native(); }
  [[nodiscard]] const std::filesystem::path& partial() const noexcept { return partial_; }

  void complete() {
    sync_file(fd_.get(), name());
    if ((overwrite_ ? ::rename(partial_.c_str(), path_.c_str()) : rename_without_replacing(partial_, path_)) != 0)
      throw_storage_errno(fmt::format("cannot name {}", name()), errno);
    complete_ = true;
    sync_directory(path_.parent_path());
  }

 private:
  static std::filesystem::path resolve(const std::filesystem::path& path) {
    std::error_code error;
    std::filesystem::path resolved = std::filesystem::weakly_canonical(std::filesystem::absolute(path), error);
    if (error) throw UsageError(fmt::format("{}: {}", path.native(), error.message()));
    if (!std::filesystem::is_directory(resolved.parent_path(), error))
      throw UsageError(fmt::format("there is no directory {}", resolved.parent_path().native()), "make it first");
    return resolved;
  }

  std::filesystem::path path_;
  std::filesystem::path partial_;
  bool overwrite_;
  mode_t mode_ = 0600;
  UniqueFd fd_;
  bool complete_ = false;
};

class RawFile : public DiskTarget {
 public:
  RawFile(const std::filesystem::path& path, std::uint64_t size, bool overwrite)
      : file_(path, overwrite), direct_(file_.fd()) {
    if (::ftruncate(file_.fd(), static_cast<off_t>(size)) != 0)
      throw_storage_errno(fmt::format("cannot make {} {} bytes long", file_.name(), size), errno);
  }
  void write(std::span<const Piece> pieces) override {
    for (const Piece& piece : joined(pieces))
      without_zeros(piece, [this](const Piece& part) { direct_.pwrite(part.bytes, part.offset, file_.name()); });
  }
  void zero(std::uint64_t, std::uint64_t) override {}  // a new file reads as zeros
  void complete() override { file_.complete(); }

 private:
  PartialFile file_;
  DirectFile direct_;
};

class BlockDevice : public DiskTarget {
 public:
  enum class Holds {
    anything,  ///< what is beyond the disk stays
    rubbish,   ///< all of it is written over: what others have left is nothing for the guest
    zeros,     ///< they need not be written
  };
  BlockDevice(const std::filesystem::path& path, std::uint64_t size, Holds holds)
      : name_(path.native()), holds_(holds), size_(size) {
    // O_EXCL: refused while it is mounted or part of something.
    fd_ = UniqueFd(::open(path.c_str(), O_RDWR | O_EXCL | O_CLOEXEC));
    if (!fd_ && errno == EBUSY)
      throw UsageError(fmt::format("{} is in use", name_), "unmount it, or choose another device");
    if (!fd_) throw_storage_errno(fmt::format("cannot open {}", name_), errno);
    std::uint64_t has = 0;
    if (::ioctl(fd_.get(), BLKGETSIZE64, &has) != 0)
      throw_storage_errno(fmt::format("cannot measure {}", name_), errno);
    if (has < size)
      throw UsageError(fmt::format("{} has {} bytes, the disk has {}", name_, has, size), "choose a larger device");
    has_ = has;
    direct_.emplace(fd_.get());
  }
  void write(std::span<const Piece> pieces) override {
    const auto send = [this](const Piece& part) { direct_->pwrite(part.bytes, part.offset, name_); };
    for (const Piece& piece : joined(pieces))
      if (holds_ == Holds::zeros)
        without_zeros(piece, send);
      else
        send(piece);
  }
  void zero(std::uint64_t offset, std::uint64_t length) override {
    if (holds_ == Holds::zeros) return;
    std::array<std::uint64_t, 2> range = {offset, length};
    if (::ioctl(fd_.get(), BLKZEROOUT, range.data()) == 0) return;
    static constexpr std::array<std::byte, 65536> zeros{};
    while (length > 0) {
      const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(length, zeros.size()));
      pwrite_all(fd_.get(), std::span(zeros).first(part), offset, name_);
      offset += part;
      length -= part;
    }
  }
  void complete() override {
    if (holds_ == Holds::rubbish && has_ > size_) zero(size_, has_ - size_);
    sync_file(fd_.get(), name_);
  }

 private:
  std::string name_;
  Holds holds_;
  std::uint64_t size_;
  std::uint64_t has_ = 0;
  UniqueFd fd_;
  std::optional<DirectFile> direct_;
};

class Qcow2File : public DiskTarget {
 public:
  Qcow2File(const std::filesystem::path& path, std::uint64_t size, bool overwrite)
      : file_(path, overwrite), nbd_(open(size)) {}
  void write(std::span<const Piece> pieces) override;
  void zero(std::uint64_t, std::uint64_t) override {}  // a new image reads as zeros
  void complete() override {
    try {
      nbd_->flush();
      nbd_->close();
    } catch (const CaptureError& error) {
      throw StorageError(error.what(), error.hint());
    }
    file_.complete();
  }

 private:
  std::unique_ptr<NbdSession> open(std::uint64_t size) {
    create_qcow2(file_.partial(), size);
    const bool direct = DirectFile(file_.fd()).is_direct();
    return std::make_unique<NbdSession>(file_.partial(), "qcow2",
                                        direct ? NbdSession::Access::write_uncached : NbdSession::Access::read_write);
  }
  static int written(void* user, int* error) noexcept {
    auto* self = static_cast<Qcow2File*>(user);
    if (*error != 0 && self->error_ == 0) self->error_ = *error;
    --self->in_flight_;
    return 1;
  }
  void send(const Piece& piece);

  PartialFile file_;
  std::size_t in_flight_ = 0;
  int error_ = 0;
  std::unique_ptr<NbdSession> nbd_;  // last: its end lets go of the buffers
};

void Qcow2File::send(const Piece& piece) {
  for (std::size_t at = 0; at < piece.bytes.size();) {
    const std::size_t part = std::min<std::size_t>(piece.bytes.size() - at, nbd_->max_request());
    if (in_flight_ == 0) nbd_->asked();
    ++in_flight_;
    if (nbd_aio_pwrite(nbd_->get(), piece.bytes.data() + at, part, piece.offset + at, {written, this, nullptr}, 0) <
        0) {
      --in_flight_;
      nbd_->fail("cannot write");
    }
    at += part;
  }
}

void Qcow2File::write(std::span<const Piece> pieces) {
  try {
    // Padding to whole blocks is in the last piece's reach only: sizes of qcow2 images are multiples of 512.
    for (const Piece& piece : joined(pieces))
      without_zeros(piece, [this](const Piece& part) { send(part); });
    while (in_flight_ > 0)
      nbd_->work(nbd_answer_limit);
  } catch (const CaptureError& error) {
    nbd_->abandon();
    throw StorageError(error.what(), error.hint());
  }
  if (error_ != 0) throw_storage_errno(fmt::format("cannot write {}", file_.name()), error_);
}

class Stream : public DiskTarget {
 public:
  Stream(int fd, std::uint64_t size, std::stop_token stop) : fd_(fd), size_(size), stop_(std::move(stop)) {
    struct stat status {};
    is_pipe_ = ::fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode));
  }

  void write(std::span<const Piece> pieces) override {
    for (const Piece& piece : joined(pieces)) {
      if (piece.offset < written_) throw std::logic_error("a stream does not go back");
      write_zeros(piece.offset);
      send(piece.bytes);
    }
  }
  void zero(std::uint64_t, std::uint64_t) override {}  // written with what follows
  void complete() override {
    write_zeros(size_);
    // A pipe has nothing to sync.
    if (::fsync(fd_) != 0 && errno != EINVAL && errno != EROFS)
      throw_storage_errno(fmt::format("cannot sync {}", name), errno);
  }

 private:
  static constexpr std::string_view name = "standard output";

  void write_zeros(std::uint64_t end) {
    static constexpr std::array<std::byte, 65536> zeros{};
    while (written_ < end)
      send(std::span(zeros).first(static_cast<std::size_t>(std::min<std::uint64_t>(end - written_, zeros.size()))));
  }

  void send(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      // Whoever reads a pipe may have stopped: so much never blocks once there is room (pipe(7)).
      const auto part = is_pipe_ ? bytes.first(std::min<std::size_t>(bytes.size(), PIPE_BUF)) : bytes;
      if (is_pipe_) wait_for_room();
      write_all(fd_, part, name);
      written_ += part.size();
      bytes = bytes.subspan(part.size());
    }
  }

  void wait_for_room() const {
    pollfd room{fd_, POLLOUT, 0};
    while (::poll(&room, 1, 100) <= 0)
      if (stop_.stop_requested()) throw Interrupted("stopped before the disk was complete");
  }

  int fd_;
  std::uint64_t size_;
  std::stop_token stop_;
  bool is_pipe_ = false;
  std::uint64_t written_ = 0;
};

}  // namespace

std::unique_ptr<DiskTarget> stream_target(int fd, std::uint64_t size, std::stop_token stop) {
  return std::make_unique<Stream>(fd, size, std::move(stop));
}

std::unique_ptr<DiskTarget> open_new_volume(const std::filesystem::path& path, std::uint64_t size,
                                            bool reads_as_zeros) {
  return std::make_unique<BlockDevice>(path, size,
                                       reads_as_zeros ? BlockDevice::Holds::zeros : BlockDevice::Holds::rubbish);
}

std::unique_ptr<DiskTarget> open_disk_target(const std::filesystem::path& path, std::string_view format,
                                             std::uint64_t size, bool overwrite) {
  if (format != "raw" && format != "qcow2")
    throw UsageError(fmt::format("cannot write the format \"{}\"", format), "use raw or qcow2");
  struct stat status {};
  const bool is_device = ::stat(path.c_str(), &status) == 0 && S_ISBLK(status.st_mode);
  if (is_device && format != "raw")
    throw UsageError(fmt::format("{} is a block device: only raw is written there", path.native()), "use --format raw");
  if (is_device && !overwrite)
    throw UsageError(fmt::format("{} is a block device: what it holds would be lost", path.native()),
                     "look at it, then use --overwrite");
  if (is_device) return std::make_unique<BlockDevice>(path, size, BlockDevice::Holds::anything);
  if (format == "raw") return std::make_unique<RawFile>(path, size, overwrite);
  return std::make_unique<Qcow2File>(path, size, overwrite);
}

}  // namespace stillpoint
