// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/sandbox.hh"

#include "common/deleter.hh"
#include "common/errors.hh"

#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

namespace stillpoint {
namespace {

constexpr uid_t nobody = 65534;
constexpr rlim_t most_memory = rlim_t{1} << 30;
constexpr rlim_t most_cpu_seconds = 3600;

void limit(__rlimit_resource resource, rlim_t most) {
  const rlimit limits = {most, most};
  if (::setrlimit(resource, &limits) != 0) throw_errno("cannot limit the file system's worker");
}

/// Makes the current directory the root, and keeps no copy of the other mounts: what is unmounted elsewhere is to go.
bool let_go_of_the_tree() {
  return ::syscall(SYS_pivot_root, ".", ".") == 0 && ::umount2(".", MNT_DETACH) == 0;
}

/// An empty read-only root in namespaces of our own. Where the system does not permit it, the walls that follow hold
/// by themselves.
void leave_the_tree(bool is_root) {
  int namespaces = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
  if (!is_root) namespaces |= CLONE_NEWUSER;
  if (::unshare(namespaces) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0)
    static_cast<void>(
        ::mount("none", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=555") == 0 &&
        ::chdir("/proc") == 0 && (let_go_of_the_tree() || ::chroot(".") == 0) && ::chdir("/") == 0);
}

void drop_privileges(bool is_root) {
  if (is_root) {
    for (int capability = 0; ::prctl(PR_CAPBSET_DROP, capability) == 0; ++capability) {
    }
    if (::setgroups(0, nullptr) != 0 || ::setresgid(nobody, nobody, nobody) != 0 ||
        ::setresuid(nobody, nobody, nobody) != 0)
      throw_errno("the file system's worker cannot give up its rights");
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const std::array<__user_cap_data_struct, 2> none{};
  if (::syscall(SYS_capset, &header, none.data()) != 0)
    throw_errno("the file system's worker cannot give up its capabilities");
}

void filter_system_calls() {
  const CPtr<void, seccomp_release> filter(seccomp_init(SCMP_ACT_KILL_PROCESS));
  if (!filter) throw Error("the file system's worker has no system call filter");
  static constexpr int allowed[] = {
      SCMP_SYS(read),         SCMP_SYS(write),          SCMP_SYS(brk),
      SCMP_SYS(munmap),       SCMP_SYS(mremap),         SCMP_SYS(madvise),
      SCMP_SYS(futex),        SCMP_SYS(exit),           SCMP_SYS(exit_group),
      SCMP_SYS(rt_sigreturn), SCMP_SYS(clock_gettime),  SCMP_SYS(gettimeofday),
      SCMP_SYS(time),         SCMP_SYS(getrandom),      SCMP_SYS(restart_syscall),
      SCMP_SYS(getpid),       SCMP_SYS(rt_sigprocmask),
  };
  bool good = true;
  for (const int call : allowed)
    good = good && seccomp_rule_add_array(filter.get(), SCMP_ACT_ALLOW, call, 0, nullptr) == 0;
  // Memory, never executable.
  const scmp_arg_cmp not_executable = {2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0};
  for (const int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)})
    good = good && seccomp_rule_add_array(filter.get(), SCMP_ACT_ALLOW, call, 1, &not_executable) == 0;
  if (!good || seccomp_load(filter.get()) != 0) throw Error("the file system's worker cannot filter its system calls");
}

}  // namespace

void enter_sandbox() {
  const bool is_root = ::geteuid() == 0;
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) throw_errno("the file system's worker cannot give up new rights");
  leave_the_tree(is_root);
  drop_privileges(is_root);
  // After the change of uid, which resets both.
  ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_FSIZE, 0);
  limit(RLIMIT_NPROC, 0);
  limit(RLIMIT_NOFILE, 4);
  limit(RLIMIT_CPU, most_cpu_seconds);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which need terabytes and more calls
  limit(RLIMIT_AS, most_memory);
  filter_system_calls();
#endif
}

}  // namespace stillpoint
