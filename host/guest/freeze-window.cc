// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/freeze-window.hh"

#include "common/bounded-call.hh"
#include "common/errors.hh"
#include "common/log.hh"
#include "common/protocol.hh"
#include "common/test-pause.hh"
#include "host/guest/agent-command.hh"
#include "host/guest/session.hh"
#include "host/guest/thaw-guard.hh"
#include "host/guest/thaw.hh"
#include "host/guest/virt-error.hh"

#include <fmt/format.h>

#include <utility>

namespace stillpoint {

namespace {

using namespace std::chrono_literals;

/// libvirt first asks qemu-ga for a sign of life, for up to 5 s; what is left is for the command itself.
constexpr std::chrono::seconds answer_limit =
    std::chrono::duration_cast<std::chrono::seconds>(protocol::host_deadline) - 5s;
/// The guard acts after this process had its chance to thaw by itself.
constexpr std::chrono::seconds guard_limit =
    std::chrono::duration_cast<std::chrono::seconds>(protocol::host_deadline) + 5s;

std::chrono::microseconds since(SteadyClock::time_point begun) {
  return std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begun);
}

struct FreezeAnswer {
  int count = -1;
  VirtFault fault;
};

/// qemu-ga refuses all that could write while it is frozen, another freeze too.
bool is_disabled(const VirtFault& fault) {
  return fault.message.find("disabled") != std::string::npos;
}

}  // namespace

FrozenGuest::FrozenGuest(const Domain& domain, std::optional<std::chrono::milliseconds> most) : domain_(domain) {
  if (!domain_.running())
    throw QuiesceError(fmt::format("{} does not run: there is nothing to freeze", domain_.name()));
  if (says_frozen(domain_)) refuse_frozen();
  guard_ = std::make_unique<ThawGuard>(domain_, guard_limit);
  limit_ = std::make_unique<AgentResponseTimeout>(domain_.state()->reach(), answer_limit);
  pause_for_test("freeze-call");
  freeze();
  if (!most || freeze_took_ <= *most) return;
  thaw();
  throw QuiesceError(fmt::format("freezing {} took {} ms, and {} ms are allowed", domain_.name(),
                                 freeze_took_.count() / 1000, most->count()),
                     "the guest is thawed; try again at a quieter time, or allow more");
}

void FrozenGuest::refuse_frozen() const {
  throw QuiesceError(fmt::format("{} is already frozen, by another program or an earlier crash", domain_.name()),
                     fmt::format("thaw it: stillpoint thaw {}", domain_.name()));
}

void FrozenGuest::freeze() {
  begun_ = SteadyClock::now();
  const auto answer = bounded_call(Deadline(protocol::host_deadline), [domain = domain_] {
    const std::shared_ptr<virDomain> target = domain.state()->reach();
    FreezeAnswer given;
    given.count = virDomainFSFreeze(target.get(), nullptr, 0, 0);
    if (given.count < 0) given.fault = last_virt_fault();
    return given;
  });
  freeze_took_ = since(begun_);
  if (!answer) give_up_freezing("the freeze call does not return", false);
  if (answer->count < 0 && is_disabled(answer->fault) && says_frozen(domain_)) {
    // Somebody was faster by a moment: the window is his, and not to be thawed.
    guard_->disarm();
    refuse_frozen();
  }
  if (answer->count < 0) give_up_freezing(answer->fault.message, answer->fault.connection_lost());
  if (answer->count == 0) give_up_freezing("the guest froze no file system", false);
  frozen_ = static_cast<std::uint64_t>(answer->count);
  held_ = true;
}

void FrozenGuest::give_up_freezing(const std::string& reason, bool libvirt_lost) {
  const ThawOutcome outcome = thaw_until_sure(domain_, Deadline(protocol::host_deadline));
  if (outcome.thawed) guard_->disarm();
  guard_.reset();
  limit_.reset();
  std::string message = fmt::format("{} could not be frozen: {}", domain_.name(), reason);
  if (!outcome.thawed)
    throw QuiesceError(fmt::format("{}; whether it is thawed is not known ({})", message, outcome.reason),
                       fmt::format("a process keeps trying to thaw it; look with stillpoint thaw {}", domain_.name()));
  if (libvirt_lost) throw Unreachable(message, "look whether libvirtd runs and answers: virsh list");
  throw QuiesceError(message, "the guest is thawed; its journal says more: journalctl -u qemu-guest-agent");
}

std::string FrozenGuest::why_not_frozen() const {
  try {
    return says_frozen(domain_) ? std::string() : "the guest says that it is thawed";
  } catch (const Error& error) {
    return error.what();
  }
}

FrozenGuest::~FrozenGuest() {
  if (!held_) return;
  try {
    thaw();
  } catch (const std::exception& error) {
    log_error("{}", error.what());
  }
}

void FrozenGuest::thaw() {
  if (!std::exchange(held_, false)) return;
  const auto thaw_begun = SteadyClock::now();
  ThawOutcome outcome;
  try {
    outcome.count = thaw_once(domain_, Deadline(protocol::host_deadline));
    outcome.thawed = true;
  } catch (const Error& error) {
    log_warning("{}; trying again", error.what());
    outcome = thaw_until_sure(domain_, Deadline(protocol::host_deadline));
  }
  thaw_took_ = since(thaw_begun);
  window_ = since(begun_);
  thawed_ = outcome.count;
  if (outcome.thawed && !guard_->disarm())
    log_warning("the window was so long that the guard thawed {} first", domain_.name());
  guard_.reset();
  limit_.reset();
  if (!outcome.thawed)
    throw QuiesceError(fmt::format("{} cannot be thawed: {}", domain_.name(), outcome.reason),
                       fmt::format("a process keeps trying; help it: stillpoint thaw {} --force", domain_.name()));
  // Its backup job may still be there for a moment.
  if (outcome.stopped) throw CaptureError(fmt::format("{} stopped while it was frozen", domain_.name()), "try again");
}

}  // namespace stillpoint
