// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/clock.hh"
#include "common/errors.hh"
#include "host/guest/agent-command.hh"
#include "host/guest/connection.hh"
#include "host/guest/session.hh"
#include "host/guest/thaw-guard-words.hh"
#include "host/guest/thaw-guard.hh"
#include "host/guest/thaw.hh"

#include <poll.h>
#include <sys/socket.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <optional>
#include <string>
#include <thread>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;

/// A libvirtd that is being upgraded, or a host in trouble, may take long to come back.
constexpr std::chrono::milliseconds give_up_after = 1h;
constexpr std::chrono::milliseconds longest_pause = 5s;

void outlive_everything() {
  for (const int signal :
       {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1, SIGUSR2, SIGALRM, SIGTSTP, SIGTTIN, SIGTTOU})
    ::signal(signal, SIG_IGN);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::close_range(STDERR_FILENO + 1, ~0U, 0);
  if (::chdir("/") != 0) ::syslog(LOG_WARNING, "cannot leave the working directory");
}

void say(std::string_view text) {
  static_cast<void>(::send(STDIN_FILENO, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
}

enum class Word { disarm, gone, nothing };

/// What the other side says within the time.
Word listen_for(std::chrono::milliseconds time) {
  const Deadline deadline(time);
  while (true) {
    pollfd socket{STDIN_FILENO, POLLIN, 0};
    if (::poll(&socket, 1, deadline.poll_timeout()) == 0) return Word::nothing;
    char byte = 0;
    const ssize_t got = ::recv(STDIN_FILENO, &byte, 1, MSG_DONTWAIT);
    if (got == 1 && byte == guard_disarm) return Word::disarm;
    if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) return Word::gone;
  }
}

/// One round on a connection of its own: the one before may have died with libvirtd. True when nothing is left to do.
bool thaw_round(const std::string& uri, const std::string& uuid) {
  try {
    const Domain domain = Connection(uri).domain(uuid);
    const AgentResponseTimeout limit(domain.state()->reach(), 15s);
    const ThawOutcome outcome = thaw_until_sure(domain, Deadline(30s));
    if (outcome.thawed)
      ::syslog(LOG_WARNING, "%s is thawed: whoever froze it died or took too long", domain.name().c_str());
    return outcome.thawed;
  } catch (const NotFound&) {
    return true;
  } catch (const std::exception& error) {
    // Whatever it is: a host in trouble is when this process is needed.
    ::syslog(LOG_WARNING, "cannot thaw domain %s yet: %s", uuid.c_str(), error.what());
    return false;
  }
}

int thaw_however_long(const std::string& uri, const std::string& uuid) {
  const Deadline deadline(give_up_after);
  std::chrono::milliseconds pause = 250ms;
  bool parent_lives = true;
  while (!thaw_round(uri, uuid)) {
    if (deadline.passed()) {
      ::syslog(LOG_ERR, "domain %s could not be thawed: do it with stillpoint thaw --force", uuid.c_str());
      return 1;
    }
    // A parent that could thaw after all says so; one that has died says nothing any more.
    if (!parent_lives) {
      std::this_thread::sleep_for(pause);
    } else {
      const Word word = listen_for(pause);
      if (word == Word::disarm) return 0;
      parent_lives = word == Word::nothing;
    }
    pause = std::min(pause * 2, longest_pause);
  }
  return 0;
}

std::optional<std::chrono::seconds> seconds_of(std::string_view text) {
  int value = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (fault != std::errc() || end != text.data() + text.size() || value < 1 || value > 3600) return std::nullopt;
  return std::chrono::seconds(value);
}

}  // namespace

int thaw_guard_main(int argc, char** argv) {
  const std::optional<std::chrono::seconds> limit = argc == 5 ? seconds_of(argv[4]) : std::nullopt;
  if (!limit) return static_cast<int>(ExitCode::usage);
  const std::string uri = argv[2];
  const std::string uuid = argv[3];
  outlive_everything();
  ::openlog("stillpoint-thaw-guard", LOG_PID, LOG_DAEMON);
  const Deadline acts_at(*limit);
  try {
    static_cast<void>(Connection(uri).domain(uuid));
  } catch (const std::exception& error) {
    say(error.what());
    return 1;
  }
  say({&guard_armed, 1});
  const Word word = listen_for(acts_at.left());
  if (word == Word::disarm) return 0;
  if (word == Word::nothing) say({&guard_acted, 1});
  return thaw_however_long(uri, uuid);
}

}  // namespace stillpoint
