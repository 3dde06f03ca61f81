// SPDX-License-Identifier: LGPL-2.1-or-later
#include "agent/overdue-thaw.hh"

#include "agent/mount-points.hh"
#include "agent/watchdog.hh"
#include "common/glib.hh"
#include "common/log.hh"

#include <array>
#include <string>
#include <vector>

namespace stillpoint {

namespace {

/// The watchdog thaws at the deadline.
constexpr std::chrono::milliseconds after_the_watchdog{300};
/// For the first thaw after the deadline: writers wait for it no longer.
constexpr std::chrono::seconds thaw_patience{2};
/// A freeze that was under way at the deadline may end after the first thaw.
constexpr int most_thaws = 60;
constexpr std::chrono::seconds thaw_interval{1};

MountPoints& mounts_to_thaw() {
  static MountPoints mounts;
  return mounts;
}

/// Nobody else will. It limits itself, and belongs to nobody once it runs.
void thaw_site_hooks() {
  std::string program = libexec_program("fsfreeze-hook");
  std::string verb = "thaw-site-hooks";
  std::array<char*, 3> arguments{program.data(), verb.data(), nullptr};
  const auto flags = static_cast<GSpawnFlags>(G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL);
  GErrorOut error;
  if (g_spawn_async("/", arguments.data(), nullptr, flags, nullptr, nullptr, nullptr, error) == 0)
    log_warning("the site's hooks are not thawed: {}", error.message());
}

}  // namespace

void OverdueThaw::start(std::chrono::milliseconds deadline) {
  awaited_ = true;
  timer_ = Source::after(deadline + after_the_watchdog, [this] { deadline_passed(); });
}

void OverdueThaw::stop() {
  awaited_ = false;
  timer_.reset();
}

void OverdueThaw::deadline_passed() {
  events_.passed();
  thaw(most_thaws);
  // Not beside it, for engines start programs; but also when it hangs.
  timer_ = Source::after(thaw_patience, [this] { events_.thawed(); });
}

void OverdueThaw::thaw(int times) {
  thawing_ = true;
  const auto thaw_all = [first = times == most_thaws] {
    if (first) mounts_to_thaw().open();
    mounts_to_thaw().thaw();
    if (first) thaw_site_hooks();
  };
  run_blocking({thaw_all}, [this, times](const std::vector<std::string>&) {
    thawing_ = false;
    events_.thawed();
    if (awaited_ && times > 1) {
      timer_ = Source::after(thaw_interval, [this, times] { thaw(times - 1); });
      return;
    }
    mounts_to_thaw().close();
    events_.give_up();
  });
}

}  // namespace stillpoint
