// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/thaw-guard.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "common/signal-mask.hh"
#include "host/guest/session.hh"
#include "host/guest/thaw-guard-words.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;

constexpr std::chrono::milliseconds arm_limit = 15s;
constexpr std::chrono::milliseconds exit_limit = 2s;

/// posix_spawn's two objects, with the choices that make a guard.
class SpawnOptions {
 public:
  explicit SpawnOptions(int socket) {
    ::posix_spawn_file_actions_init(&actions_);
    ::posix_spawnattr_init(&attributes_);
    ::posix_spawn_file_actions_adddup2(&actions_, socket, STDIN_FILENO);
    // Whoever waits for the end of our output must not wait for the guard.
    ::posix_spawn_file_actions_addopen(&actions_, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions_, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    ::posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSID);
  }
  SpawnOptions(const SpawnOptions&) = delete;
  SpawnOptions& operator=(const SpawnOptions&) = delete;
  ~SpawnOptions() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }

  [[nodiscard]] const posix_spawn_file_actions_t* actions() const noexcept { return &actions_; }
  [[nodiscard]] const posix_spawnattr_t* attributes() const noexcept { return &attributes_; }

 private:
  posix_spawn_file_actions_t actions_{};
  posix_spawnattr_t attributes_{};
};

pid_t spawn_guard(int socket, std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& argument : arguments)
    argv.push_back(argument.data());
  argv.push_back(nullptr);
  const SpawnOptions options(socket);
  // The guard begins with all signals blocked: none can end it before it ignores them.
  const AllSignalsBlocked blocked;
  pid_t pid = -1;
  const int fault =
      ::posix_spawn(&pid, "/proc/self/exe", options.actions(), options.attributes(), argv.data(), environ);
  if (fault != 0) throw QuiesceError(errno_message("cannot start the process that thaws when this one dies", fault));
  return pid;
}

/// The guards of that domain that nobody waits for.
bool has_orphans(const std::string& uuid) {
  std::error_code gone;
  const std::filesystem::path own = std::filesystem::read_symlink("/proc/self/exe", gone);
  const auto is_ours = [&](const std::string& pid) {
    return std::filesystem::read_symlink("/proc/" + pid + "/exe", gone) == own;
  };
  constexpr std::size_t longest = 1 << 16;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", gone)) {
    const std::string pid = entry.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos || !is_ours(pid)) continue;
    try {
      const std::string command = read_text(entry.path() / "cmdline", longest);
      if (command.find(fmt::format("{0}{1}{0}", '\0', thaw_guard_verb)) == std::string::npos ||
          command.find(fmt::format("{0}{1}{0}", '\0', uuid)) == std::string::npos)
        continue;
      // "pid (name) state ppid ...": a name may have blanks, and parentheses too.
      const std::string stat = read_text(entry.path() / "stat", longest);
      std::istringstream rest(stat.substr(stat.rfind(')') + 1));
      std::string state;
      std::string parent;
      if (rest >> state >> parent && !is_ours(parent)) return true;
    } catch (const Error&) {
      // It has ended meanwhile.
    }
  }
  return false;
}

}  // namespace

bool wait_for_earlier_guards(const Domain& domain, const Deadline& deadline) {
  const std::string uuid = domain.uuid();
  while (has_orphans(uuid)) {
    if (deadline.passed()) return false;
    std::this_thread::sleep_for(200ms);
  }
  return true;
}

ThawGuard::ThawGuard(const Domain& domain, std::chrono::seconds limit) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) throw_errno<QuiesceError>("socketpair");
  socket_ = UniqueFd(ends[0]);
  const UniqueFd theirs(ends[1]);
  pid_ = spawn_guard(theirs.get(), {"stillpoint", std::string(thaw_guard_verb), domain.state()->session->uri(),
                                    domain.uuid(), std::to_string(limit.count())});
  try {
    wait_until_armed();
  } catch (...) {
    disarm();
    throw;
  }
}

void ThawGuard::wait_until_armed() {
  constexpr std::string_view what = "cannot arm the process that thaws when this one dies";
  const Deadline deadline(arm_limit);
  std::string answer;
  while (true) {
    pollfd socket{socket_.get(), POLLIN, 0};
    if (::poll(&socket, 1, deadline.poll_timeout()) == 0) throw QuiesceError(fmt::format("{}: no answer", what));
    std::array<char, 512> bytes{};
    const ssize_t got = ::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) throw_errno<QuiesceError>(what);
    answer.append(bytes.data(), static_cast<std::size_t>(got));
    if (answer.starts_with(guard_armed)) return;
    if (got == 0) throw QuiesceError(fmt::format("{}: {}", what, answer.empty() ? "it ended" : answer));
  }
}

ThawGuard::~ThawGuard() {
  if (!socket_) return;
  log_warning("the thaw is left to a process of its own ({}), which keeps trying", pid_);
}

bool ThawGuard::disarm() noexcept {
  std::array<char, 16> told{};
  const ssize_t got = ::recv(socket_.get(), told.data(), told.size(), MSG_DONTWAIT);
  const bool acted = got > 0;
  static_cast<void>(::send(socket_.get(), &guard_disarm, 1, MSG_NOSIGNAL | MSG_DONTWAIT));
  socket_.reset();
  const Deadline deadline(exit_limit);
  while (::waitpid(pid_, nullptr, WNOHANG) == 0 && !deadline.passed())
    std::this_thread::sleep_for(1ms);
  return !acted;
}

}  // namespace stillpoint
