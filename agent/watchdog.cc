// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/watchdog.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "config.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace stillpoint {

namespace {

constexpr std::chrono::milliseconds answer_limit{2000};

/// The watchdogs that earlier agents have left, by their command line.
std::vector<UniqueFd> earlier_watchdogs(const std::string& command_line) {
  std::vector<UniqueFd> found;
  std::error_code error;
  std::filesystem::directory_iterator entry("/proc", error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename();
    pid_t pid = -1;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ec != std::errc()) continue;
    struct stat status {};
    if (::stat(entry->path().c_str(), &status) != 0 || status.st_uid != ::geteuid()) continue;
    // First: what is read below is then of this very process, or it is dead. (glibc 2.36 has no C++ declaration.)
    UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    std::ifstream file(entry->path() / "cmdline");
    if (process && std::string(std::istreambuf_iterator<char>(file), {}) == command_line)
      found.push_back(std::move(process));
  }
  return found;
}

}  // namespace

std::string libexec_program(std::string_view name) {
  // The tests run from the build tree.
  const char* directory = std::getenv("STILLPOINT_LIBEXEC");
  return fmt::format("{}/{}", directory != nullptr ? directory : STILLPOINT_LIBEXEC, name);
}

Watchdog::Watchdog(std::string owner) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw_errno("socketpair");
  socket_.reset(ends[0]);
  const UniqueFd theirs(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  // The child's standard input is the socket; a session of its own keeps signals for the agent's group away.
  ::posix_spawn_file_actions_adddup2(&actions, theirs.get(), STDIN_FILENO);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  sigset_t none, all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  const std::string path = libexec_program("stillpoint-watchdog");
  std::string name = "stillpoint-watchdog";
  earlier_ = earlier_watchdogs(name + '\0' + owner + '\0');
  char* const arguments[] = {name.data(), owner.data(), nullptr};
  char* const environment[] = {nullptr};
  const int error = ::posix_spawn(&pid_, path.c_str(), &actions, &attributes, arguments, environment);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) throw Error(errno_message(fmt::format("cannot start {}", path), error));
}

Watchdog::~Watchdog() {
  socket_.reset();
  if (pid_ <= 0) return;
  // A disarmed watchdog ends at once; an armed one is meant to outlive us, and init reaps it.
  for (int i = 0; i < 50 && !armed_ && ::waitpid(pid_, nullptr, WNOHANG) == 0; ++i)
    ::usleep(10000);
}

bool Watchdog::alive() noexcept {
  if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) != 0) pid_ = -1;
  return pid_ > 0;
}

bool Watchdog::ask(const char* text, char answer, bool& fired) noexcept {
  const Deadline deadline(answer_limit);
  if (::send(socket_.get(), text, std::strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) return false;
  while (!deadline.passed()) {
    pollfd poll{socket_.get(), POLLIN, 0};
    if (::poll(&poll, 1, deadline.poll_timeout()) <= 0) continue;
    char got = 0;
    const ssize_t n = ::recv(socket_.get(), &got, 1, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return false;
    if (n == 1 && got == 'F') fired = true;
    if (n == 1 && got == answer) return true;
  }
  return false;
}

void Watchdog::arm(std::chrono::milliseconds deadline) {
  bool fired = false;
  const std::string text = fmt::format("A{}\n", deadline.count());
  armed_ = true;  // also when its answer is late
  if (!ask(text.c_str(), 'a', fired)) throw Error("the watchdog does not answer: nothing would thaw the guest");
  // What they were to thaw is ours now; they would go on thawing in this window.
  for (const UniqueFd& process : earlier_)
    ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
  earlier_.clear();
}

bool Watchdog::disarm() noexcept {
  if (!armed_) return false;
  armed_ = false;
  bool fired = false;
  return !ask("D\n", 'd', fired) || fired;
}

}  // namespace stillpoint
