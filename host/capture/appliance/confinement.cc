// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/appliance/confinement.hh"

#include "common/errors.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <string_view>
#include <system_error>

namespace stillpoint {
namespace {

namespace fs = std::filesystem;

constexpr uid_t nobody_uid = 65534;
/// The appliance's own disk is a sparse file of 4 GiB.
constexpr rlim_t longest_file = rlim_t{6} << 30;
constexpr rlim_t most_cpu = rlim_t{6} * 3600;
constexpr const char* cache_directory = "/var/cache/stillpoint";

void set_limit(__rlimit_resource resource, rlim_t most) {
  const rlimit limits = {most, most};
  if (::setrlimit(resource, &limits) != 0) throw_errno("cannot limit the appliance's worker");
}

void write_line(const char* path, std::string_view text) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  static_cast<void>(::write(fd, text.data(), text.size()) > 0);
  ::close(fd);
}

/// A user namespace in which we are who we were: nothing is gained but the right to the other namespaces.
bool enter_user_namespace(int others) {
  const std::string uid = std::to_string(::getuid());
  const std::string gid = std::to_string(::getgid());
  if (::unshare(CLONE_NEWUSER | others) != 0) return false;
  write_line("/proc/self/setgroups", "deny");
  write_line("/proc/self/uid_map", fmt::format("{0} {0} 1", uid));
  write_line("/proc/self/gid_map", fmt::format("{0} {0} 1", gid));
  return true;
}

/// True where /tmp is now a file system of our own, which goes with us.
bool enter_namespaces(bool is_root) {
  constexpr int namespaces = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID;
  if (is_root ? ::unshare(namespaces) != 0 : !enter_user_namespace(namespaces)) return false;
  // What is unmounted elsewhere goes here too. What the guest's journals write is kept in memory or swap.
  return ::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) == 0 &&
         ::mount("none", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=2g,mode=1777") == 0;
}

fs::path make_cache(bool is_root) {
  // Whoever chooses one himself sees to it that it can be written.
  if (const char* chosen = std::getenv("LIBGUESTFS_CACHEDIR"); chosen != nullptr && *chosen == '/') return chosen;
  if (!is_root) return {};
  const fs::path cache = fs::path(cache_directory) / "appliance";
  if ((::mkdir(cache_directory, 0755) != 0 && errno != EEXIST) ||
      (::mkdir(cache.c_str(), 0700) != 0 && errno != EEXIST))
    throw_errno(fmt::format("cannot make {}", cache.native()));
  // Not through a link: its parent is root's alone.
  if (::lchown(cache.c_str(), nobody_uid, nobody_uid) != 0)
    throw_errno(fmt::format("cannot hand over {}", cache.native()));
  return cache;
}

void become_nobody() {
  std::array<gid_t, 1> groups{};
  std::size_t count = 0;
  struct stat device {};
  if (::stat("/dev/kvm", &device) == 0 && device.st_gid != 0) groups[count++] = device.st_gid;
  for (int capability = 0; ::prctl(PR_CAPBSET_DROP, capability) == 0; ++capability) {
  }
  if (::setgroups(count, groups.data()) != 0 || ::setresgid(nobody_uid, nobody_uid, nobody_uid) != 0 ||
      ::setresuid(nobody_uid, nobody_uid, nobody_uid) != 0)
    throw_errno("the appliance's worker cannot give up its rights");
}

void drop_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const std::array<__user_cap_data_struct, 2> none{};
  if (::syscall(SYS_capset, &header, none.data()) != 0)
    throw_errno("the appliance's worker cannot give up its capabilities");
}

[[noreturn]] void await_child(pid_t child, const fs::path& temporary) {
  // Its socket's other end is closed when the companion goes: only the child may hold ours.
  ::syscall(SYS_close_range, 3U, ~0U, 0U);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
  ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

/// All but the rights to mount and to read what is others'.
void keep_mounting() {
  constexpr std::array kept = {CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN};
  for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability) >= 0; ++capability)
    if (std::find(kept.begin(), kept.end(), capability) == kept.end()) ::prctl(PR_CAPBSET_DROP, capability);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> rights{};
  for (const int capability : kept)
    rights[0].effective |= 1U << static_cast<unsigned>(capability);
  rights[0].permitted = rights[0].effective;
  if (::syscall(SYS_capset, &header, rights.data()) != 0)
    throw_errno("the worker that mounts cannot give up its capabilities");
}

std::string make_temporary() {
  std::string name = "/tmp/stillpoint-appliance-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) throw_errno("cannot make a directory in /tmp");
  return name;
}

/// Goes on in a child, which ends with its parent.
void go_on_in_child(const fs::path& temporary) {
  const pid_t child = ::fork();
  if (child < 0) throw_errno("cannot start the appliance's worker");
  if (child > 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    await_child(child, temporary);
  }
}

void limit_what_is_run() {
  // After the change of uid, which resets it.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  set_limit(RLIMIT_CORE, 0);
  set_limit(RLIMIT_CPU, most_cpu);
}

}  // namespace

WritablePlaces confine() {
  const bool is_root = ::geteuid() == 0;
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) throw_errno("the appliance's worker cannot give up new rights");
  WritablePlaces places;
  places.cache = make_cache(is_root);
  static_cast<void>(enter_namespaces(is_root));
  places.temporary = make_temporary();
  if (is_root && ::lchown(places.temporary.c_str(), nobody_uid, nobody_uid) != 0)
    throw_errno(fmt::format("cannot hand over {}", places.temporary.native()));
  go_on_in_child(places.temporary);
  if (is_root) become_nobody();
  drop_capabilities();
  limit_what_is_run();
  set_limit(RLIMIT_FSIZE, longest_file);
  return places;
}

WritablePlaces confine_to_mount() {
  if (::geteuid() != 0) throw CaptureError("only root can have the kernel mount a guest's file systems");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) throw_errno("the worker that mounts cannot give up new rights");
  if (!enter_namespaces(true)) throw_errno<CaptureError>("cannot make mounts that nobody else sees");
  WritablePlaces places;
  places.temporary = make_temporary();
  go_on_in_child(places.temporary);
  keep_mounting();
  // An overlay is as long as all disks, and holds what /tmp does.
  limit_what_is_run();
  return places;
}

}  // namespace stillpoint
