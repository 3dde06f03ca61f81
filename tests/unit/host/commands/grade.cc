// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/grade.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

namespace {

/// Everything as it should be.
Evidence good() {
  Evidence evidence;
  evidence.frozen = evidence.thawed = 3;
  evidence.report.emplace();
  evidence.report->quiesced = true;
  evidence.report->databases.emplace_back();
  evidence.report->databases[0].exactness = Exactness::exact;
  return evidence;
}

template <typename Change>
Judgement judged(Change change) {
  Evidence evidence = good();
  change(evidence);
  return judge(evidence);
}

}  // namespace

TEST_CASE("application needs every positive signal") {
  CHECK(judge(good()).grade == Grade::application);
  CHECK(judge(good()).reasons.empty());
  CHECK(judged([](Evidence& e) { e.report->databases.clear(); }).grade == Grade::application);

  const auto filesystem = [](auto change) {
    const Judgement judgement = judged(change);
    CHECK(judgement.grade == Grade::filesystem);
    CHECK(judgement.reasons.size() == 1);
  };
  filesystem([](Evidence& e) {
    e.report.reset();
    e.report_fault = "lost";
  });
  filesystem([](Evidence& e) { e.report->quiesced = false; });
  filesystem([](Evidence& e) { e.copy_fault = "there is no such file"; });
  filesystem([](Evidence& e) { e.report->databases[0].exactness = Exactness::skewed; });
  filesystem([](Evidence& e) { e.report->databases[0].exactness = Exactness::failed; });
  filesystem([](Evidence& e) {
    e.report.reset();
    e.agent_fault = "not installed";
  });
}

TEST_CASE("a guest that did not stand still is crash grade, whatever the agent says") {
  const auto crash = [](auto change) {
    const Judgement judgement = judged(change);
    CHECK(judgement.grade == Grade::crash);
    CHECK(judgement.reasons.size() == 1);
  };
  crash([](Evidence& e) { e.at_rest = "the domain is shut off"; });
  crash([](Evidence& e) { e.freeze_fault = "the hook failed"; });
  crash([](Evidence& e) { e.frozen = e.thawed = 0; });
  crash([](Evidence& e) { e.thawed = 2; });
  crash([](Evidence& e) { e.status_fault = "the guest says that it is thawed"; });
  crash([](Evidence& e) { e.report->watchdog_fired = true; });
}

TEST_CASE("what a guest offers before the freeze") {
  CHECK(offered_grade(good()).grade == Grade::application);
  Evidence evidence = good();
  evidence.agent_fault = "not installed";
  CHECK(offered_grade(evidence).grade == Grade::filesystem);
  evidence.guest_agent_fault = "not connected";
  CHECK(offered_grade(evidence).grade == Grade::crash);
  evidence = good();
  evidence.at_rest = "the domain is shut off";
  CHECK(offered_grade(evidence).grade == Grade::crash);
}
