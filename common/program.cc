// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/program.hh"

#include "common/errors.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <utility>

namespace stillpoint {

namespace {

/// For a killed program to go; one that hangs in the kernel is left to it.
constexpr std::chrono::milliseconds kill_limit{2000};
/// No wait status looks like this.
constexpr int unknown_status = -1;
constexpr int lifeline_number = 3;

/// Pointers into `texts`, null-terminated, for execve.
std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  result.reserve(texts.size() + 1);
  for (std::string& text : texts)
    result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

/// Everything that the child needs, made before the fork: after it only system calls are safe.
struct Start {
  const char* path;
  char* const* arguments;
  char* const* environment;
  const OsUser* user;
  int input, output, errors, lifeline, failure;
};

void fail(int fd) noexcept {
  const int error = errno;
  static_cast<void>(!::write(fd, &error, sizeof error));
  ::_exit(127);
}

[[noreturn]] void become_program(const Start& start) noexcept {
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
  if (start.lifeline >= 0 && ::dup2(start.lifeline, lifeline_number) < 0) fail(start.failure);
  ::execve(start.path, start.arguments, start.environment);
  fail(start.failure);
  ::_exit(127);
}

/// A copy above the program's own numbers, so that dup2() onto one of them cannot overwrite another.
UniqueFd out_of_the_way(int fd) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, lifeline_number + 1));
  if (!copy) throw_errno<CaptureError>("cannot copy a descriptor");
  return copy;
}

/// Ready to read once the child has ended. glibc 2.36 has a wrapper, older ones do not.
UniqueFd open_pidfd(pid_t pid) noexcept {
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

int reap_child(pid_t pid, int options) noexcept {
  int status = unknown_status;
  while (::waitpid(pid, &status, options) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace

Pipe open_pipe(std::string_view what) {
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC) != 0) throw_errno<CaptureError>(fmt::format("cannot open a pipe for {}", what));
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

Intake::Intake(UniqueFd pipe, std::size_t limit, Keep keep) noexcept
    : pipe_(std::move(pipe)), limit_(limit), keep_(keep) {
  if (pipe_) ::fcntl(pipe_.get(), F_SETFL, ::fcntl(pipe_.get(), F_GETFL) | O_NONBLOCK);
}

void Intake::take() {
  std::array<char, 4096> buffer{};
  // A pipe's worth: one that is filled as fast as it is emptied must not keep us from looking at the clock.
  for (std::size_t taken = 0; pipe_ && taken < std::size_t{64} << 10;) {
    const ssize_t n = ::read(pipe_.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return pipe_.reset();
    taken += static_cast<std::size_t>(n);
    text_.append(buffer.data(), static_cast<std::size_t>(n));
    if (text_.size() <= limit_) continue;
    too_long_ = true;
    text_.erase(0, text_.size() - limit_);
    if (keep_ == Keep::all) pipe_.reset();
  }
}

RunningProgram::RunningProgram(const Program& program, const ProgramDescriptors& descriptors) {
  // The whole path: pg_dumpall looks for pg_dump beside what it was called as.
  std::vector<std::string> arguments{program.path.string()};
  arguments.insert(arguments.end(), program.arguments.begin(), program.arguments.end());
  std::vector<std::string> environment = program.environment;
  const std::vector<char*> argument_pointers = pointers(arguments);
  const std::vector<char*> environment_pointers = pointers(environment);

  const UniqueFd input = descriptors.input < 0 ? out_of_the_way(open_file("/dev/null", O_RDONLY).get())
                                               : out_of_the_way(descriptors.input);
  const UniqueFd output = out_of_the_way(descriptors.output);
  const UniqueFd errors = out_of_the_way(descriptors.errors);
  const UniqueFd lifeline = descriptors.lifeline < 0 ? UniqueFd() : out_of_the_way(descriptors.lifeline);
  Pipe failure = open_pipe("starting a program");
  failure.write_end = out_of_the_way(failure.write_end.get());

  const bool change_user = program.user && ::geteuid() == 0;
  const Start start{program.path.c_str(),
                    argument_pointers.data(),
                    environment_pointers.data(),
                    change_user ? &*program.user : nullptr,
                    input.get(),
                    output.get(),
                    errors.get(),
                    lifeline.get(),
                    failure.write_end.get()};
  const pid_t pid = ::fork();
  if (pid < 0) throw_errno<CaptureError>(fmt::format("cannot start {}", program.path.native()));
  if (pid == 0) become_program(start);

  failure.write_end.reset();
  int error = 0;
  ssize_t n = 0;
  // End of file: the exec has closed it.
  while ((n = ::read(failure.read_end.get(), &error, sizeof error)) < 0 && errno == EINTR) {
  }
  if (n == static_cast<ssize_t>(sizeof error)) {
    reap_child(pid, 0);
    throw CaptureError(errno_message(fmt::format("cannot run {}", program.path.native()), error));
  }
  pid_ = pid;
}

RunningProgram::RunningProgram(RunningProgram&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}

RunningProgram& RunningProgram::operator=(RunningProgram&& other) noexcept {
  if (this != &other) {
    end_group();
    pid_ = std::exchange(other.pid_, -1);
  }
  return *this;
}

RunningProgram::~RunningProgram() {
  end_group();
}

bool RunningProgram::wait(const Deadline& deadline, std::span<Intake> intakes, int cancelled) const {
  const UniqueFd ended = open_pidfd(pid_);
  std::vector<pollfd> fds(2 + intakes.size());
  for (;;) {
    siginfo_t info{};
    // WNOWAIT: the pid stays ours until the whole group has been killed.
    const bool known = ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0;
    const bool over = known ? info.si_pid == pid_ : errno != EINTR;
    for (Intake& intake : intakes)
      intake.take();
    if (over) return true;
    if (deadline.passed() || (fds[1].revents & POLLIN) != 0) return false;
    fds[0] = {ended.get(), POLLIN, 0};
    fds[1] = {cancelled, POLLIN, 0};
    for (std::size_t i = 0; i < intakes.size(); ++i)
      fds[2 + i] = {intakes[i].fd(), POLLIN, 0};
    // Without pidfd (an old kernel) the poll only paces the loop.
    ::poll(fds.data(), fds.size(), deadline.poll_timeout(std::chrono::milliseconds(ended ? 1000 : 20)));
  }
}

int RunningProgram::status() const noexcept {
  siginfo_t info{};
  if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != pid_)
    return unknown_status;
  return info.si_code == CLD_EXITED ? W_EXITCODE(info.si_status, 0) : W_EXITCODE(0, info.si_status);
}

int RunningProgram::reap() noexcept {
  return reap_child(std::exchange(pid_, -1), 0);
}

void RunningProgram::ask_to_end() const noexcept {
  if (pid_ > 0) ::kill(-pid_, SIGTERM);
}

int RunningProgram::end_group() noexcept {
  if (pid_ <= 0) return unknown_status;
  ::kill(-pid_, SIGKILL);
  const UniqueFd ended = open_pidfd(pid_);
  pollfd fd{ended.get(), POLLIN, 0};
  ::poll(&fd, 1, static_cast<int>(kill_limit.count()));
  return reap_child(std::exchange(pid_, -1), WNOHANG);
}

std::string describe_status(int status) {
  if (WIFEXITED(status)) return WEXITSTATUS(status) == 0 ? "" : fmt::format("exit status {}", WEXITSTATUS(status));
  if (WIFSIGNALED(status)) return fmt::format("ended by signal {}", WTERMSIG(status));
  return "its exit status is lost";
}

}  // namespace stillpoint
