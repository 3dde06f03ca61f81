// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/kernel/kernel-mounts.hh"

#include "common/clock.hh"
#include "common/deleter.hh"
#include "common/errors.hh"
#include "common/text.hh"
#include "host/capture/appliance/blocks-server.hh"
#include "host/capture/tree-wire.hh"

#include <btrfsutil.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <string_view>
#include <system_error>
#include <utility>

namespace stillpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds fuse_limit{30};
constexpr std::chrono::milliseconds fuse_interval{10};
constexpr int most_attempts = 64;
constexpr std::size_t most_subvolumes = 256;
constexpr std::uint64_t fs_tree = 5;  ///< btrfs' number of what is above all subvolumes

/// What is worth the kernel's while; nothing else is ever given to mount(2).
struct MountableType {
  std::string_view type;
  const char* options;
};
constexpr std::array mountable = {
    // Of a guest that was cloned, or is mounted here a second time, the same number is there already.
    MountableType{"xfs", "nouuid"},
    // All of it: subvolumes are directories in it, whichever of them is the default.
    MountableType{"btrfs", "subvolid=5"},
    MountableType{"vfat", ""},
    MountableType{"iso9660", ""},
};

/// A loop device that goes with its last user.
struct LoopDevice {
  UniqueFd fd;
  std::string path;
};

LoopDevice attach_loop(int file, std::uint64_t offset, std::uint64_t length) {
  const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control) throw_errno<CaptureError>("cannot open /dev/loop-control");
  for (int attempt = 0; attempt < most_attempts; ++attempt) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) throw_errno<CaptureError>("there is no loop device to be had");
    LoopDevice device{UniqueFd(), fmt::format("/dev/loop{}", number)};
    device.fd = UniqueFd(::open(device.path.c_str(), O_RDWR | O_CLOEXEC));
    if (!device.fd) throw_errno<CaptureError>(fmt::format("cannot open {}", device.path));
    loop_config config{};
    config.fd = static_cast<__u32>(file);
    config.info.lo_offset = offset;
    config.info.lo_sizelimit = length;
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    if (::ioctl(device.fd.get(), LOOP_CONFIGURE, &config) == 0) return device;
    // Somebody else was faster.
    if (errno != EBUSY) throw_errno<CaptureError>(fmt::format("cannot attach {}", device.path));
  }
  throw CaptureError("every loop device is taken by somebody else");
}

std::string not_mounted(int error, std::string_view type) {
  if (error == ENODEV) return fmt::format("this kernel does not know {}", type);
  return fmt::format("the kernel does not mount it: {}", std::system_category().message(error));
}

void add_subvolumes(std::vector<MountedFileSystem>& list, const MountedFileSystem& whole) {
  btrfs_util_subvolume_iterator* raw = nullptr;
  if (btrfs_util_create_subvolume_iterator_fd(whole.root, fs_tree, 0, &raw) != BTRFS_UTIL_OK) return;
  const CPtr<btrfs_util_subvolume_iterator, btrfs_util_destroy_subvolume_iterator> iterator(raw);
  for (std::size_t i = 0; i < most_subvolumes; ++i) {
    char* found = nullptr;
    if (btrfs_util_subvolume_iterator_next(iterator.get(), &found, nullptr) != BTRFS_UTIL_OK) return;
    const CPtr<char, std::free> owner(found);
    const std::string path = found;
    if (path.empty() || path.size() > 1024 || printable(path) != path || path.find(':') != std::string::npos) continue;
    if (list.size() >= wire::max_file_systems) return;
    MountedFileSystem added = whole;
    added.name = whole.name + "/" + path;
    added.prefix = path + "/";
    list.push_back(std::move(added));
  }
}

}  // namespace

KernelMounts::KernelMounts(const WritablePlaces& places, std::vector<KernelDevice> devices, int blocks_fd)
    : directory_(places.temporary), devices_(std::move(devices)) {
  for (const KernelDevice& device : devices_)
    total_ += device.size;
  server_ = start_blocks_server(directory_, {total_}, blocks_fd, BlocksAccess::overlay);
  start_fuse();
  // Ours alone: whoever is the last in a namespace unmounts what it has, and nbdfuse would wait for its own answer.
  // When we die, the kernel unmounts before it ends the others of our processes. What is unmounted elsewhere goes here
  // too.
  if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
    throw_errno<CaptureError>("cannot make mounts that nobody else sees");
}

void KernelMounts::start_fuse() {
  const fs::path nbdfuse = program_on_path("nbdfuse");
  if (nbdfuse.empty()) throw CaptureError("there is no nbdfuse: install the package libnbd-bin");
  const fs::path point = directory_ / "fuse";
  if (::mkdir(point.c_str(), 0700) != 0) throw_errno<CaptureError>("cannot make a directory for nbdfuse");
  const fs::path file = point / "disks";
  Program program{.path = nbdfuse,
                  .arguments = {file.native(), fmt::format("nbd+unix:///0?socket={}/blocks", directory_.native())},
                  .environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"},
                  .user = {}};
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  fuse_ = RunningProgram(program, {.output = null.get(), .errors = null.get()});
  const Deadline limit(fuse_limit);
  for (;;) {
    file_ = UniqueFd(::open(file.c_str(), O_RDWR | O_CLOEXEC));
    if (file_) return;
    if (fuse_.wait(Deadline(fuse_interval)) || limit.passed())
      throw CaptureError("nbdfuse does not mount: it needs /dev/fuse");
  }
}

/// Its root; throws CaptureError.
int KernelMounts::mount(const KernelDevice& device, std::uint64_t offset, const fs::path& point) {
  const auto known = std::find_if(mountable.begin(), mountable.end(),
                                  [&device](const MountableType& each) { return each.type == device.type; });
  if (known == mountable.end()) throw CaptureError(fmt::format("the kernel is not asked to mount {}", device.type));
  if (::mkdir(point.c_str(), 0700) != 0) throw_errno<CaptureError>("cannot make a directory to mount on");
  const LoopDevice loop = attach_loop(file_.get(), offset, device.size);
  if (::mount(loop.path.c_str(), point.c_str(), device.type.c_str(), MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
              known->options) != 0)
    throw CaptureError(not_mounted(errno, device.type));
  UniqueFd root(::open(point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) throw_errno<CaptureError>("cannot open what was mounted");
  roots_.push_back(std::move(root));
  return roots_.back().get();
}

std::vector<MountedFileSystem> KernelMounts::mount_all(const std::function<void()>& one_done) {
  std::vector<MountedFileSystem> list;
  std::uint64_t offset = 0;
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    const KernelDevice& device = devices_[i];
    MountedFileSystem made{device.name, device.type, {}, device.size, -1, {}};
    try {
      made.root = mount(device, offset, directory_ / std::to_string(i));
    } catch (const CaptureError& error) {
      made.obstacle = error.what();
    }
    offset += device.size;
    list.push_back(made);
    if (made.type == "btrfs" && made.root >= 0) add_subvolumes(list, made);
    one_done();
  }
  return list;
}

}  // namespace stillpoint
