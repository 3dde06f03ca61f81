// SPDX-License-Identifier: LGPL-2.1-or-later
// fsfreeze-hook freeze|thaw: what qemu-ga runs (-F) before it freezes file systems and after it has thawed them.
//
// It fails closed: when it returns anything but 0 for "freeze", qemu-ga does not freeze, and does not call for a thaw
// either, so everything is undone before.

#include "common/errors.hh"
#include "common/log.hh"
#include "common/protocol.hh"
#include "hooks/agent-request.hh"
#include "hooks/site-hooks.hh"

#include <fmt/format.h>
#include <signal.h>
#include <syslog.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

using namespace stillpoint;

namespace {

namespace fs = std::filesystem;

/// Site hooks share the hook's time with the barrier, which needs its part.
constexpr std::chrono::milliseconds site_hooks_limit = protocol::hook_limit - protocol::barrier_limit;
/// For each of them on the way back, whatever time the freeze has used: a service left stopped is worse than a late
/// thaw.
constexpr std::chrono::seconds thaw_limit_each{5};
constexpr std::chrono::seconds agent_thaw_limit{6};

volatile sig_atomic_t terminated = 0;

/// qemu-ga gives its hook /dev/null as standard error: what the operator has to read goes to the system's log as well.
void complain(const std::string& what) {
  log_error("{}", what);
  ::syslog(LOG_ERR, "%s", what.c_str());
}

std::string setting(const char* name, std::string_view fallback) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : std::string(fallback);
}

/// The environment is qemu-ga's: root's own.
std::vector<fs::path> hook_directories() {
  std::vector<fs::path> directories;
  std::istringstream list(
      setting("STILLPOINT_HOOK_DIRECTORIES", "/etc/qemu/fsfreeze-hook.d:/etc/stillpoint/fsfreeze-hook.d"));
  for (std::string directory; std::getline(list, directory, ':');)
    if (!directory.empty()) directories.emplace_back(directory);
  return directories;
}

fs::path control_socket() {
  return setting("STILLPOINT_CONTROL_SOCKET", protocol::control_socket);
}

/// In reverse order; every one is tried, whatever fails.
bool thaw_site_hooks(std::vector<FoundProgram> hooks) {
  std::reverse(hooks.begin(), hooks.end());
  bool good = true;
  for (const FoundProgram& hook : hooks) {
    const SiteHookRun run = run_site_hook(hook, "thaw", Deadline(thaw_limit_each));
    if (run.failure.empty()) continue;
    complain(fmt::format("{} thaw: {}", run.name, run.failure));
    good = false;
  }
  return good;
}

bool release() {
  try {
    const Json answer =
        ask_agent(control_socket(), protocol::message(protocol::type::thaw), Deadline(agent_thaw_limit));
    if (json_string(answer, "type") == protocol::type::released) return true;
    complain(fmt::format("the agent did not release the databases: {}", json_string_or(answer, "message", "")));
  } catch (const Error& e) {
    complain(fmt::format("the databases are not released: {}", e.what()));
  }
  return false;
}

int thaw() {
  // The databases first: they were quiesced last.
  const bool released = release();
  // A site hook that fails has complained. Nothing is frozen any more: to call the thaw failed would be wrong.
  static_cast<void>(thaw_site_hooks(find_programs(hook_directories())));
  return released ? 0 : 1;
}

/// Throws QuiesceError with the site hooks still to be undone: those in `ran`.
void quiesce(const Deadline& deadline, std::vector<FoundProgram>& ran) {
  Json runs = Json::array();
  const Deadline site_deadline = deadline.at_most(site_hooks_limit);
  for (const FoundProgram& hook : find_programs(hook_directories())) {
    ran.push_back(hook);
    const SiteHookRun run = run_site_hook(hook, "freeze", site_deadline);
    if (!run.failure.empty()) throw QuiesceError(fmt::format("{} freeze: {}", run.name, run.failure));
    runs.push_back({{"name", run.name}, {"took_ms", run.took.count()}, {"failure", ""}});
    if (terminated != 0) throw QuiesceError("stopped by a signal");
  }
  Json request = protocol::message(protocol::type::freeze);
  request["timeout_ms"] = deadline.left().count();
  request["hooks"] = std::move(runs);
  Json answer;
  try {
    answer = ask_agent(control_socket(), request, deadline);
  } catch (const NoAnswer&) {
    // Its answer may have crossed our end: then it holds the barrier for a freeze that does not come.
    static_cast<void>(release());
    throw;
  }
  if (json_string(answer, "type") != protocol::type::quiesced)
    throw QuiesceError(json_string_or(answer, "message", "the agent refused"));
}

int freeze() {
  const Deadline deadline(protocol::hook_limit);
  std::vector<FoundProgram> ran;
  try {
    quiesce(deadline, ran);
    if (terminated == 0) return 0;
    complain("not quiesced: stopped by a signal");
    static_cast<void>(release());
  } catch (const std::exception& e) {
    // With its own refusal the agent holds nothing for us.
    complain(fmt::format("not quiesced: {}", e.what()));
  }
  static_cast<void>(thaw_site_hooks(ran));
  return 1;
}

int run(std::string_view verb) {
  struct sigaction action {};
  action.sa_handler = [](int) { terminated = 1; };
  for (const int number : {SIGTERM, SIGINT, SIGHUP})
    ::sigaction(number, &action, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  // Inherited as ignored, it would take the site hooks' exit status away.
  ::signal(SIGCHLD, SIG_DFL);
  ::openlog("stillpoint-fsfreeze-hook", LOG_PID, LOG_DAEMON);
  if (verb == "freeze") return freeze();
  if (verb == "thaw") return thaw();
  // For the agent, when no thaw has come.
  if (verb == "thaw-site-hooks") return thaw_site_hooks(find_programs(hook_directories())) ? 0 : 1;
  log_error("usage: fsfreeze-hook freeze|thaw (qemu-ga runs it: qemu-ga -F PATH)");
  return static_cast<int>(ExitCode::usage);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc == 2 ? argv[1] : "");
  } catch (const std::exception& e) {
    complain(e.what());
    return 1;
  }
}
