// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/directory-store.hh"

#include "common/clock.hh"
#include "common/direct-file.hh"
#include "common/errors.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <optional>

namespace stillpoint {

namespace fs = std::filesystem;

namespace {

/// So much is handed to the disk at once while a pack grows, so that the sync at its end is short.
constexpr std::uint64_t writeback_bytes = 8 << 20;

constexpr std::size_t least_direct = 1 << 20;

/// So long an index table is worth a sync: to read the footers of all its packs again would take a while.
constexpr std::uint64_t least_lasting_table = 1 << 20;

std::uint64_t file_size(int fd, std::string_view name) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) throw_errno<Corruption>(fmt::format("cannot read {}", name));
  return static_cast<std::uint64_t>(info.st_size);
}

/// Not when all of the file system is stale: then nobody knows what is there.
bool is_gone(const std::string& path) {
  // NFS asks the server when a file is opened; access() is content with what was there a minute ago.
  const UniqueFd again(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return !again && errno == ENOENT;
}

/// Throws Corruption; NotFound where it was open when another host deleted it.
void read_object(int fd, std::uint64_t offset, std::span<std::byte> buffer, const std::string& path) {
  while (!buffer.empty()) {
    const ssize_t n = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int failure = errno;
      if (failure == ESTALE && is_gone(path)) throw NotFound(fmt::format("{} was deleted by another host", path));
      throw Corruption(errno_message(fmt::format("cannot read {} at {}", path, offset), failure));
    }
    if (n == 0) throw Corruption(fmt::format("{} ends at {}, {} bytes are missing", path, offset, buffer.size()));
    buffer = buffer.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

/// Creates the directory and makes its entry durable; one that is there is fine.
void make_directory(const fs::path& path) {
  if (::mkdir(path.c_str(), 0700) == 0)
    sync_directory(path.parent_path());
  else if (errno != EEXIST)
    throw_storage_errno(fmt::format("cannot create {}", path.native()), errno);
}

void make_directories(const fs::path& root, const fs::path& below) {
  fs::path path = root;
  for (const fs::path& part : below)
    make_directory(path /= part);
}

/// What nothing rests on after a power failure: a lease's holder is dead then, and an index is made anew from the
/// packs, for each table and each of its parts has a CRC.
bool may_be_lost(std::string_view name, std::uint64_t size) {
  return name.starts_with("locks/") || (name.starts_with("index/") && size < least_lasting_table);
}

class DirectoryWriter : public ObjectWriter {
 public:
  /// `local`: nobody's but this machine's. On a network each direct write would wait for the server's disk.
  DirectoryWriter(const fs::path& root, std::string name, const std::string& lease, bool local)
      : root_(root),
        name_(std::move(name)),
        local_(local),
        temporary_(root / "tmp" / (lease.empty() ? random_id() : lease + '.' + random_id())),
        fd_(create()) {}
  DirectoryWriter(const DirectoryWriter&) = delete;
  DirectoryWriter& operator=(const DirectoryWriter&) = delete;
  ~DirectoryWriter() override {
    if (!published_) ::unlink(temporary_.c_str());
  }

  void append(std::span<const std::byte> bytes) override {
    // Many small objects are written, too: only large ones are worth another descriptor.
    if (local_ && !direct_ && bytes.size() >= least_direct) direct_.emplace(fd_.get());
    if (direct_)
      direct_->pwrite(bytes, size_, temporary_.native());
    else
      pwrite_all(fd_.get(), bytes, size_, temporary_.native());
    size_ += bytes.size();
    if (size_ - written_back_ >= writeback_bytes) {
      // Only a hint: what it leaves undone, commit() does.
      static_cast<void>(::sync_file_range(fd_.get(), static_cast<off_t>(written_back_),
                                          static_cast<off_t>(size_ - written_back_), SYNC_FILE_RANGE_WRITE));
      written_back_ = size_;
    }
  }

  void commit() override {
    // A network's server may fail alone, and who works here goes on when it is back.
    const bool lasts = !local_ || !may_be_lost(name_, size_);
    if (lasts) sync_file(fd_.get(), temporary_.native());
    const fs::path target = root_ / name_;
    if (!publish(target)) {
      const int failure = errno;
      if (failure != ENOENT) throw_storage_errno(fmt::format("cannot create {}", target.native()), failure);
      make_directories(root_, fs::path(name_).parent_path());
      if (!publish(target)) throw_storage_errno(fmt::format("cannot create {}", target.native()), errno);
    }
    published_ = true;
    fd_.reset();
    if (!lasts) return;
    try {
      sync_directory(target.parent_path());
    } catch (...) {
      // The caller is told that it is not there: then it must not be.
      ::unlink(target.c_str());
      throw;
    }
  }

 private:
  UniqueFd create() const {
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
    UniqueFd fd(::open(temporary_.c_str(), flags | O_CLOEXEC, 0600));
    if (fd || errno != ENOENT) return fd ? std::move(fd) : open_file(temporary_, flags, 0600);
    make_directory(temporary_.parent_path());
    return open_file(temporary_, flags, 0600);
  }

  /// False with errno.
  bool publish(const fs::path& target) const {
    if (rename_without_replacing(temporary_, target) == 0) return true;
    if (errno != EEXIST) return false;
    // An NFS server that was restarted, or whose answer got lost, is asked again for what it has done already.
    struct stat ours {};
    struct stat there {};
    const bool done = ::fstat(fd_.get(), &ours) == 0 && ::lstat(target.c_str(), &there) == 0 &&
                      ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
    if (done) ::unlink(temporary_.c_str());
    errno = EEXIST;
    return done;
  }

  fs::path root_;
  std::string name_;
  bool local_;
  fs::path temporary_;
  UniqueFd fd_;
  std::optional<DirectFile> direct_;
  std::uint64_t size_ = 0;
  std::uint64_t written_back_ = 0;
  bool published_ = false;
};

class DirectoryReader : public ObjectReader {
 public:
  DirectoryReader(UniqueFd fd, std::string path)
      : fd_(std::move(fd)), path_(std::move(path)), size_(file_size(fd_.get(), path_)) {}

  [[nodiscard]] std::uint64_t size() const override { return size_; }
  void read(std::uint64_t offset, std::span<std::byte> buffer) override {
    try {
      read_object(fd_.get(), offset, buffer, path_);
    } catch (const NotFound& e) {
      throw Corruption(e.what());
    }
  }

 private:
  UniqueFd fd_;
  std::string path_;
  std::uint64_t size_;
};

class MappedView : public ObjectView {
 public:
  MappedView(void* address, std::size_t size) noexcept : address_(address), size_(size) {}
  MappedView(const MappedView&) = delete;
  MappedView& operator=(const MappedView&) = delete;
  ~MappedView() override { ::munmap(address_, size_); }
  [[nodiscard]] std::span<const std::byte> bytes() const override {
    return {static_cast<const std::byte*>(address_), size_};
  }

 private:
  void* address_;
  std::size_t size_;
};

class FileLock : public StoreLock {
 public:
  explicit FileLock(UniqueFd fd) noexcept : fd_(std::move(fd)) {}

 private:
  UniqueFd fd_;  ///< the kernel lets go with it
};

/// File systems that nobody but this machine changes; any other may be a network's.
bool is_network(const fs::path& path) {
  struct statfs info {};
  if (::statfs(path.c_str(), &info) != 0) return true;
  constexpr long zfs = 0x2fc12fc1;
  constexpr std::array<long, 8> local{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC,       BTRFS_SUPER_MAGIC, TMPFS_MAGIC,
                                      F2FS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, RAMFS_MAGIC,       zfs};
  return std::ranges::count(local, static_cast<long>(info.f_type)) == 0;
}

/// What to do where this user may not: on a network it is the server that says who root is.
std::string refusal_hint(const fs::path& path, std::string otherwise) {
  if (::geteuid() != 0 || !is_network(path)) return otherwise;
  return "an NFS server that takes root for nobody (root_squash) refuses what root may do: export it with "
         "no_root_squash, or give it a directory of the user that root is there";
}

/// Whether nothing is in it but what a new file system has.
bool is_free(const fs::path& path) {
  std::error_code failure;
  for (fs::directory_iterator it(path, failure); !failure && it != fs::directory_iterator(); it.increment(failure))
    if (it->path().filename() != "lost+found") return false;
  if (failure)
    throw ConfigError(fmt::format("cannot list {}: {}", path.native(), failure.message()), refusal_hint(path, {}));
  return true;
}

void list_below(const fs::path& directory, const std::string& prefix, std::vector<ObjectInfo>& objects, int depth) {
  std::error_code failure;
  fs::directory_iterator it(directory, failure);
  if (failure == std::errc::no_such_file_or_directory) return;
  for (; !failure && it != fs::directory_iterator(); it.increment(failure)) {
    const std::string name = prefix + "/" + it->path().filename().native();
    struct stat info {};
    if (::lstat(it->path().c_str(), &info) != 0) {
      if (errno == ENOENT) continue;  // gone since
      throw_errno<Corruption>(fmt::format("cannot look at {}", it->path().native()));
    }
    if (S_ISDIR(info.st_mode) && depth < 4) list_below(it->path(), name, objects, depth + 1);
    const auto modified = std::chrono::sys_seconds(std::chrono::seconds(info.st_mtim.tv_sec));
    // So NFS calls what was deleted while a program of this host had it open.
    if (it->path().filename().native().starts_with(".nfs")) continue;
    if (S_ISREG(info.st_mode)) objects.push_back({name, static_cast<std::uint64_t>(info.st_size), modified});
  }
  if (failure) throw Corruption(fmt::format("cannot list {}: {}", directory.native(), failure.message()));
}

}  // namespace

DirectoryStore::DirectoryStore(const fs::path& path, StoreAccess access) : root_(path) {
  struct stat info {};
  const bool there = ::stat(root_.c_str(), &info) == 0;
  if (!there && errno != ENOENT) throw_errno<ConfigError>(fmt::format("cannot open {}", root_.native()));
  if (there && !S_ISDIR(info.st_mode)) throw ConfigError(fmt::format("{} is not a directory", root_.native()));
  if (access == StoreAccess::create) {
    if (!there) {
      // A disk holds its guest's secrets, and a tree its set-user-ID programs.
      if (::mkdir(root_.c_str(), 0700) != 0) {
        const int failure = errno;
        const std::string hint = refusal_hint(fs::absolute(root_).parent_path(), {});
        if ((failure == EACCES || failure == EPERM) && !hint.empty())
          throw StorageError(errno_message(fmt::format("cannot create {}", root_.native()), failure), hint);
        throw_storage_errno(fmt::format("cannot create {}", root_.native()), failure);
      }
      sync_directory(fs::absolute(root_).parent_path());
    } else if (!is_free(root_)) {
      throw ConfigError(fmt::format("{} is not empty", root_.native()),
                        "a repository needs a directory of its own: name a new or an empty one");
    }
  } else if (!there) {
    throw ConfigError(fmt::format("there is no repository at {}", root_.native()),
                      "check the path and that its file system is mounted, or create one with 'stillpoint init'");
  }
  root_ = fs::canonical(root_);
  if (access != StoreAccess::read && ::access(root_.c_str(), W_OK | X_OK) != 0) {
    const std::string what = errno_message(fmt::format("the repository {} cannot be written", root_.native()), errno);
    throw ConfigError(what, refusal_hint(root_, "check that it is mounted read-write and who you are"));
  }
  is_local_ = !is_network(root_);
  if (!is_local_ && access != StoreAccess::read && !DirectoryStore::exists(network_object)) {
    try {
      put(network_object, {});
    } catch (const StorageError&) {
      if (!DirectoryStore::exists(network_object)) throw;  // another host was first
    }
  }
}

std::chrono::seconds DirectoryStore::visibility() const {
  std::error_code unknown;
  const bool shared = !is_local_ || fs::exists(root_ / network_object, unknown) || unknown;
  return shared ? network_visibility : std::chrono::seconds(0);
}

UniqueFd DirectoryStore::open_object(const std::string& name) const {
  const fs::path path = root_ / name;
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd && errno == ENOENT) throw NotFound(fmt::format("{} does not exist", path.native()));
  if (!fd && (errno == EACCES || errno == EPERM)) {
    const std::string what = errno_message(fmt::format("cannot open {}", path.native()), errno);
    throw ConfigError(what, refusal_hint(root_, {}));
  }
  if (!fd && (errno == EMFILE || errno == ENFILE)) throw_errno(fmt::format("cannot open {}", path.native()));
  if (!fd) throw_errno<Corruption>(fmt::format("cannot open {}", path.native()));
  return fd;
}

std::unique_ptr<ObjectWriter> DirectoryStore::writer(std::string name) {
  return std::make_unique<DirectoryWriter>(root_, std::move(name), lease_, is_local_);
}

std::unique_ptr<ObjectReader> DirectoryStore::reader(const std::string& name) {
  return std::make_unique<DirectoryReader>(open_object(name), (root_ / name).native());
}

std::unique_ptr<ObjectView> DirectoryStore::view(const std::string& name) {
  const std::string path = (root_ / name).native();
  const UniqueFd fd = open_object(name);
  const std::uint64_t size = file_size(fd.get(), path);
  if (is_local_ && size > 0) {
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
    if (address != MAP_FAILED) return std::make_unique<MappedView>(address, size);
  }
  std::vector<std::byte> bytes(size);
  read_object(fd.get(), 0, bytes, path);
  return memory_view(std::move(bytes));
}

std::vector<ObjectInfo> DirectoryStore::list(std::string_view prefix) {
  std::vector<ObjectInfo> objects;
  list_below(root_ / prefix, std::string(prefix), objects, 0);
  return objects;
}

bool DirectoryStore::exists(const std::string& name) {
  const fs::path path = root_ / name;
  if (::access(path.c_str(), F_OK) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  // Not to know is not the same: what is protected, or held, must not seem free.
  throw_errno<Corruption>(fmt::format("cannot look at {}", path.native()));
}

void DirectoryStore::remove(const std::string& name) {
  if (::unlink((root_ / name).c_str()) != 0 && errno != ENOENT)
    throw_storage_errno(fmt::format("cannot delete {}/{}", root_.native(), name), errno);
}

void DirectoryStore::drop_unfinished(std::string_view lease) {
  const std::string prefix = fmt::format("tmp/{}.", lease);
  for (const ObjectInfo& object : list("tmp"))
    if (object.name.starts_with(prefix)) remove(object.name);
}

std::unique_ptr<StoreLock> DirectoryStore::try_lock(const std::string& name) {
  const fs::path path = root_ / "locks" / name;
  make_directory(path.parent_path());
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) throw_storage_errno(fmt::format("cannot open {}", path.native()), errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return std::make_unique<FileLock>(std::move(fd));
  if (errno != EWOULDBLOCK) throw_storage_errno(fmt::format("cannot lock {}", path.native()), errno);
  return nullptr;
}

}  // namespace stillpoint
