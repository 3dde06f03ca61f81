// SPDX-License-Identifier: LGPL-2.1-or-later
// stillpoint-watchdog: thaws every file system at the deadline. The agent starts it with a socket as standard input
// (watchdog.hh).
//
// Once armed it allocates nothing, opens nothing, writes to no file and needs nobody: it only waits for a timer. After
// the deadline it thaws again and again for a while: a freeze that was under way may end after the first time.

#include "agent/mount-points.hh"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

constexpr int agent = STDIN_FILENO;
constexpr int thaws = 60;
constexpr long thaw_interval = 1000;  // milliseconds

/// The kernel may not choose the one process that can thaw the guest to make room.
void stay_alive() {
  const int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, "-1000", 5) != 5) perror("stillpoint-watchdog: oom_score_adj");
  if (fd >= 0) close(fd);
}

void set_timer(int timer, long milliseconds) {
  itimerspec when{};
  when.it_value.tv_sec = milliseconds / 1000;
  when.it_value.tv_nsec = milliseconds % 1000 * 1000000;
  timerfd_settime(timer, 0, &when, nullptr);
}

void tell(char what) {
  send(agent, &what, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace

int main() {
  static stillpoint::MountPoints mounts;
  // CLOCK_BOOTTIME: a guest that was suspended meanwhile is thawed when it resumes.
  const int timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
  if (timer < 0) return 1;
  for (const int ignored : {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGQUIT})
    signal(ignored, SIG_IGN);
  // The memory is pinned so that a swap device or program file on a frozen file system is never needed.
  stay_alive();
  if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) perror("stillpoint-watchdog: mlockall");

  bool armed = false;
  int thaws_left = 0;
  bool agent_lives = true;
  char line[64];
  size_t length = 0;
  while (agent_lives || armed) {
    pollfd polls[] = {{timer, POLLIN, 0}, {agent_lives ? agent : -1, POLLIN, 0}};
    if (poll(polls, 2, -1) < 0) continue;
    unsigned long long expirations = 0;
    if ((polls[0].revents & POLLIN) != 0 && read(timer, &expirations, sizeof expirations) > 0 && armed) {
      mounts.thaw();
      if (agent_lives && thaws_left == thaws) tell('F');
      armed = --thaws_left > 0;
      if (armed)
        set_timer(timer, thaw_interval);
      else
        mounts.close();
    }
    if (polls[1].revents == 0) continue;
    const ssize_t n = recv(agent, line + length, sizeof line - 1 - length, MSG_DONTWAIT);
    if (n <= 0) {
      agent_lives = n < 0;
      continue;
    }
    length += static_cast<size_t>(n);
    line[length] = '\0';
    char* end = nullptr;
    while ((end = strchr(line, '\n')) != nullptr) {
      if (line[0] == 'A') {
        mounts.open();
        set_timer(timer, strtol(line + 1, nullptr, 10));
        thaws_left = thaws;
        armed = true;
        tell('a');
      } else if (line[0] == 'D') {
        set_timer(timer, 0);
        armed = false;
        mounts.close();
        tell('d');
      }
      length -= static_cast<size_t>(end + 1 - line);
      memmove(line, end + 1, length + 1);
    }
    if (length == sizeof line - 1) length = 0;
  }
  return 0;
}
