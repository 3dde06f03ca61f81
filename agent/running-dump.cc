// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/engine.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <utility>

namespace stillpoint {

namespace {

/// Bytes of the tool's standard error that an operator gets to read.
constexpr std::size_t max_tail = 4096;

/// How long a killed tool may take to go before it is left to the kernel.
constexpr std::chrono::milliseconds kill_limit{2000};

/// Appends what can be read now, and keeps the end of it.
void drain(int fd, std::string& tail) {
  std::array<char, 4096> buffer{};
  for (;;) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    tail.append(buffer.data(), static_cast<std::size_t>(n));
    if (tail.size() > max_tail) tail.erase(0, tail.size() - max_tail);
  }
}

/// Ready to read once the child has ended. glibc 2.36 has a wrapper, older ones do not.
UniqueFd open_pidfd(pid_t pid) noexcept {
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

bool wait_for_end(pid_t pid, int errors, std::string* tail, const Deadline& deadline) {
  const UniqueFd ended = open_pidfd(pid);
  for (;;) {
    siginfo_t info{};
    // WNOWAIT: the pid stays ours until the whole group has been killed.
    if (::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 && errno != EINTR) return true;
    if (info.si_pid == pid) return true;
    if (deadline.passed()) return false;
    std::array<pollfd, 2> fds{{{ended.get(), POLLIN, 0}, {errors, POLLIN, 0}}};
    ::poll(fds.data(), fds.size(), deadline.poll_timeout(std::chrono::milliseconds(ended ? 1000 : 20)));
    if (tail != nullptr && (fds[1].revents & POLLIN) != 0) drain(errors, *tail);
    if ((fds[1].revents & (POLLHUP | POLLERR)) != 0 && (fds[1].revents & POLLIN) == 0) errors = -1;
  }
}

void kill_group(pid_t pid) noexcept {
  ::kill(-pid, SIGKILL);
}

int reap(pid_t pid, int options) noexcept {
  int status = -1;
  while (::waitpid(pid, &status, options) < 0 && errno == EINTR) {
  }
  return status;
}

void kill_and_reap(pid_t pid) noexcept {
  kill_group(pid);
  const UniqueFd ended = open_pidfd(pid);
  pollfd fd{ended.get(), POLLIN, 0};
  ::poll(&fd, 1, static_cast<int>(kill_limit.count()));
  reap(pid, WNOHANG);
}

std::string describe(int status, std::string_view tail) {
  while (!tail.empty() && (tail.back() == '\n' || tail.back() == '\r'))
    tail.remove_suffix(1);
  std::string what;
  if (WIFEXITED(status))
    what = fmt::format("the dump tool ended with status {}", WEXITSTATUS(status));
  else if (WIFSIGNALED(status))
    what = fmt::format("the dump tool was killed by signal {}", WTERMSIG(status));
  else
    what = "the dump tool ended in an unknown way";
  return tail.empty() ? what : fmt::format("{}: {}", what, tail);
}

}  // namespace

RunningDump::RunningDump(pid_t pid, UniqueFd output, UniqueFd errors) noexcept
    : pid_(pid), output_(std::move(output)), errors_(std::move(errors)) {
  for (const int fd : {output_.get(), errors_.get()})
    if (fd >= 0) ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
}

RunningDump::RunningDump(RunningDump&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), output_(std::move(other.output_)), errors_(std::move(other.errors_)) {}

RunningDump& RunningDump::operator=(RunningDump&& other) noexcept {
  if (this != &other) {
    if (pid_ > 0) kill_and_reap(pid_);
    pid_ = std::exchange(other.pid_, -1);
    output_ = std::move(other.output_);
    errors_ = std::move(other.errors_);
  }
  return *this;
}

RunningDump::~RunningDump() {
  if (pid_ > 0) kill_and_reap(pid_);
}

std::string RunningDump::finish(const Deadline& deadline) {
  if (pid_ == 0) return {};  // over and successful before it was handed out
  if (pid_ < 0) return "the dump tool does not run any more";
  const pid_t pid = std::exchange(pid_, -1);
  std::string tail;
  if (!wait_for_end(pid, errors_.get(), &tail, deadline)) {
    kill_and_reap(pid);
    drain(errors_.get(), tail);
    return describe(SIGKILL, tail.empty() ? "it did not end in time" : "it did not end in time; " + tail);
  }
  kill_group(pid);  // what the tool may have left behind
  const int status = reap(pid, 0);
  drain(errors_.get(), tail);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? std::string() : describe(status, tail);
}

}  // namespace stillpoint
