// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/dump-tool.hh"

#include "common/errors.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <utility>

namespace stillpoint {

namespace {

constexpr int pipe_bytes = 1 << 20;

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

Pipe open_pipe(std::string_view what) {
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC) != 0) throw_errno<CaptureError>(fmt::format("cannot open a pipe for {}", what));
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

/// Pointers into `texts`, null-terminated, for execve.
std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts)
    result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

/// Everything that the child needs, made before the fork: after it only system calls are safe.
struct Start {
  const char* program;
  char* const* arguments;
  char* const* environment;
  const OsUser* user;
  int input, output, errors, failure;
};

void fail(int fd) noexcept {
  const int error = errno;
  static_cast<void>(!::write(fd, &error, sizeof error));
  ::_exit(127);
}

[[noreturn]] void become_tool(const Start& start) noexcept {
  for (int number = 1; number < NSIG; ++number)
    ::signal(number, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  // The agent itself is spared when memory runs out; a dump can be had again.
  if (const int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC); fd >= 0) {
    static_cast<void>(!::write(fd, "0", 1));
    ::close(fd);
  }
  if (::setpgid(0, 0) != 0 || ::chdir("/") != 0) fail(start.failure);
  if (start.user != nullptr) {
    // The raw calls: glibc's would signal threads that this child does not have.
    if (::syscall(SYS_setgroups, start.user->groups.size(), start.user->groups.data()) != 0 ||
        ::syscall(SYS_setresgid, start.user->gid, start.user->gid, start.user->gid) != 0 ||
        ::syscall(SYS_setresuid, start.user->uid, start.user->uid, start.user->uid) != 0)
      fail(start.failure);
  }
  if (::dup2(start.input, 0) < 0 || ::dup2(start.output, 1) < 0 || ::dup2(start.errors, 2) < 0) fail(start.failure);
  // Descriptors that somebody opened without O_CLOEXEC. Kernels before 5.11 refuse the call; theirs stay as they are.
  ::syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
  ::execve(start.program, start.arguments, start.environment);
  fail(start.failure);
  ::_exit(127);
}

/// A descriptor above 2, so that dup2() onto 0, 1 and 2 cannot overwrite it.
UniqueFd above_standard(UniqueFd fd) {
  if (fd.get() > 2) return fd;
  UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!copy) throw_errno<CaptureError>("cannot copy a descriptor");
  return copy;
}

}  // namespace

RunningDump run_dump_tool(const DumpTool& tool) {
  // The whole path: pg_dumpall looks for pg_dump beside what it was called as.
  std::vector<std::string> arguments{tool.program.string()};
  arguments.insert(arguments.end(), tool.arguments.begin(), tool.arguments.end());
  std::vector<std::string> environment = tool.environment;
  const std::vector<char*> argument_pointers = pointers(arguments);
  const std::vector<char*> environment_pointers = pointers(environment);

  const UniqueFd input = above_standard(open_file("/dev/null", O_RDONLY));
  Pipe output = open_pipe("a dump");
  Pipe errors = open_pipe("a dump tool's errors");
  Pipe failure = open_pipe("starting a dump tool");
  output.write_end = above_standard(std::move(output.write_end));
  errors.write_end = above_standard(std::move(errors.write_end));
  failure.write_end = above_standard(std::move(failure.write_end));
  ::fcntl(output.write_end.get(), F_SETPIPE_SZ, pipe_bytes);  // fewer switches; the default will do as well
  ::fcntl(errors.write_end.get(), F_SETFL, O_WRONLY | O_NONBLOCK);

  const bool change_user = tool.user && ::geteuid() == 0;
  const Start start{
      tool.program.c_str(), argument_pointers.data(), environment_pointers.data(), change_user ? &*tool.user : nullptr,
      input.get(),          output.write_end.get(),   errors.write_end.get(),      failure.write_end.get()};
  const pid_t pid = ::fork();
  if (pid < 0) throw_errno<CaptureError>(fmt::format("cannot start {}", tool.program.native()));
  if (pid == 0) become_tool(start);

  output.write_end.reset();
  errors.write_end.reset();
  failure.write_end.reset();
  RunningDump running(pid, std::move(output.read_end), std::move(errors.read_end));
  int error = 0;
  ssize_t n = 0;
  // End of file: the exec has closed it.
  while ((n = ::read(failure.read_end.get(), &error, sizeof error)) < 0 && errno == EINTR) {
  }
  if (n == static_cast<ssize_t>(sizeof error))
    throw CaptureError(errno_message(fmt::format("cannot run {}", tool.program.native()), error));
  return running;
}

}  // namespace stillpoint
