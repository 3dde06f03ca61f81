// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/main-loop.hh"

#include <chrono>
#include <functional>
#include <utility>

namespace stillpoint {

/// What the agent does when no thaw comes. The watchdog thaws at the deadline; the agent looks after it, for it may be
/// dead: what is thawed already is thawed again without harm. One for a process; called from the main loop.
class OverdueThaw {
 public:
  struct Events {
    std::function<void()> passed;   ///< the deadline has passed
    std::function<void()> thawed;   ///< everything was thawed once, or that takes too long; may come again
    std::function<void()> give_up;  ///< thawed as often as a late freeze could make sense
  };

  explicit OverdueThaw(Events events) : events_(std::move(events)) {}
  OverdueThaw(const OverdueThaw&) = delete;
  OverdueThaw& operator=(const OverdueThaw&) = delete;

  /// The file systems may be frozen from now on, and are not to be for longer than `deadline`.
  void start(std::chrono::milliseconds deadline);
  /// Somebody has thawed. Thaws that are under way go on.
  void stop();
  /// A thread thaws: it would thaw a new window too.
  [[nodiscard]] bool thawing() const noexcept { return thawing_; }

 private:
  void deadline_passed();
  void thaw(int times);

  Events events_;
  bool awaited_ = false;
  bool thawing_ = false;
  Source timer_;  ///< the deadline; then the next try
};

}  // namespace stillpoint
