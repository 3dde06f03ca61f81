// SPDX-License-Identifier: LGPL-2.1-or-later
#include "hooks/site-hooks.hh"

#include "common/errors.hh"
#include "common/file.hh"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <system_error>

extern char** environ;

namespace stillpoint {

namespace fs = std::filesystem;

namespace {

/// For a killed hook to go; one that hangs in the kernel is left to it.
constexpr std::chrono::seconds kill_limit{2};
/// No wait status looks like this.
constexpr int unknown_status = -1;

bool is_leftover(std::string_view name) {
  static constexpr std::array<std::string_view, 8> endings{"~",        ".bak",     ".orig",     ".rpmnew",
                                                           ".rpmorig", ".rpmsave", ".dpkg-old", ".dpkg-new"};
  return name.starts_with('.') || name.ends_with(".dpkg-dist") || name.ends_with(".sample") ||
         std::any_of(endings.begin(), endings.end(), [&](std::string_view e) { return name.ends_with(e); });
}

/// Why a file must not be run as root: anybody else could have put it there.
std::string fault_of(const fs::path& path) {
  // A symbolic link is as safe as the place that it leads to.
  std::error_code unresolved;
  const fs::path target = fs::canonical(path, unresolved);
  if (unresolved) return errno_message("cannot be resolved", unresolved.value());
  for (const fs::path& each : {path.parent_path(), target.parent_path(), target}) {
    struct stat status {};
    if (::stat(each.c_str(), &status) != 0) return errno_message("cannot look at " + each.native(), errno);
    if (status.st_uid != ::geteuid()) return fmt::format("{} does not belong to root", each.native());
    if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0)
      return fmt::format("{} is writable by others than root", each.native());
  }
  return {};
}

/// Waits for the child; no status when the deadline passed first.
std::optional<int> wait_for(pid_t pid, const Deadline& deadline) {
  const UniqueFd child(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  for (;;) {
    int status = 0;
    const pid_t ended = ::waitpid(pid, &status, WNOHANG);
    if (ended == pid) return status;
    if (ended < 0) return unknown_status;
    if (deadline.passed()) return std::nullopt;
    pollfd poll{child.get(), POLLIN, 0};
    // Without pidfd (an old kernel) the poll only paces the loop.
    ::poll(&poll, child ? 1 : 0, deadline.poll_timeout(std::chrono::milliseconds(child ? 1000 : 20)));
  }
}

std::string describe(int status) {
  if (status == unknown_status) return "its exit status is lost";
  if (WIFEXITED(status)) return WEXITSTATUS(status) == 0 ? "" : fmt::format("exit status {}", WEXITSTATUS(status));
  return fmt::format("ended by signal {}", WTERMSIG(status));
}

}  // namespace

std::vector<SiteHook> find_site_hooks(const std::vector<fs::path>& directories) {
  std::vector<SiteHook> hooks;
  for (const fs::path& directory : directories) {
    std::error_code error;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
      const fs::path path = entry->path();
      struct stat status {};
      if (is_leftover(path.filename().native()) || ::stat(path.c_str(), &status) != 0) continue;
      if (!S_ISREG(status.st_mode) || (status.st_mode & S_IXUSR) == 0) continue;
      hooks.push_back({path, fault_of(path)});
    }
    // A hook that cannot be seen must not be skipped.
    if (error && error != std::errc::no_such_file_or_directory)
      hooks.push_back({directory / "", errno_message("cannot be read", error.value())});
  }
  std::sort(hooks.begin(), hooks.end(), [](const SiteHook& a, const SiteHook& b) {
    return std::pair(a.path.filename(), a.path) < std::pair(b.path.filename(), b.path);
  });
  return hooks;
}

SiteHookRun run_site_hook(const SiteHook& hook, const std::string& argument, const Deadline& deadline) {
  SiteHookRun run{hook.path.native(), {}, hook.fault};
  if (!run.failure.empty()) return run;
  const auto begun = SteadyClock::now();
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  sigset_t none, all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  std::string program = hook.path.native();
  std::string verb = argument;
  char* const arguments[] = {program.data(), verb.data(), nullptr};
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, program.c_str(), &actions, &attributes, arguments, environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    run.failure = errno_message("cannot be started", error);
    return run;
  }
  if (const std::optional<int> status = wait_for(pid, deadline)) {
    run.failure = describe(*status);
  } else {
    ::kill(-pid, SIGKILL);
    static_cast<void>(wait_for(pid, Deadline(kill_limit)));
    run.failure = "did not end in time";
  }
  run.took = std::chrono::duration_cast<std::chrono::milliseconds>(SteadyClock::now() - begun);
  return run;
}

}  // namespace stillpoint
