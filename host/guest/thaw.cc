// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/thaw.hh"

#include "common/bounded-call.hh"
#include "common/errors.hh"
#include "host/guest/agent-command.hh"
#include "host/guest/session.hh"
#include "host/guest/virt-error.hh"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;

constexpr std::chrono::milliseconds pause_between_tries = 500ms;

}  // namespace

bool says_frozen(const Domain& domain) {
  return guest_says_frozen(domain, agent_ping_limit);
}

std::uint64_t thaw_once(const Domain& domain, const Deadline& deadline) {
  const auto count = bounded_call(deadline, [domain] {
    const std::shared_ptr<virDomain> target = domain.state()->reach();
    const int thawed = virDomainFSThaw(target.get(), nullptr, 0, 0);
    if (thawed < 0) throw_virt<QuiesceError>(fmt::format("cannot thaw {}", domain.name()));
    return static_cast<std::uint64_t>(thawed);
  });
  if (!count) throw Unreachable(fmt::format("the call to thaw {} does not return", domain.name()));
  return *count;
}

ThawOutcome thaw_until_sure(const Domain& domain, const Deadline& deadline) {
  ThawOutcome outcome;
  while (true) {
    try {
      if (!domain.running()) return {true, true, outcome.count, {}};
      // qemu-ga takes commands in turn: a freeze that was still under way is over when the thaw is answered.
      outcome.reason = "the guest still says that it is frozen";
      try {
        outcome.count += thaw_once(domain, deadline);
      } catch (const QuiesceError& error) {
        outcome.reason = error.what();  // or the failure of the hook alone, which runs after the thaw
      }
      if (!says_frozen(domain)) return {true, false, outcome.count, {}};
    } catch (const NotFound&) {
      return {true, true, outcome.count, {}};  // a transient domain that has ended
    } catch (const Error& error) {
      outcome.reason = error.what();
    }
    if (deadline.left() <= pause_between_tries) return outcome;
    std::this_thread::sleep_for(pause_between_tries);
  }
}

}  // namespace stillpoint
