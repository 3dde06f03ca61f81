// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/grade.hh"

#include <fmt/format.h>

namespace stillpoint {

namespace {

std::string name_of(const DatabaseReport& database) {
  return database.database.empty() ? fmt::format("{} {}", database.engine, database.instance)
                                   : fmt::format("{} {} {}", database.engine, database.instance, database.database);
}

/// What keeps the report from proving that every database was quiesced at the instant.
std::vector<std::string> faults_of(const Evidence& evidence) {
  std::vector<std::string> faults;
  if (!evidence.report) {
    faults.push_back(fmt::format("no report of the agent: {}", evidence.report_fault));
    return faults;
  }
  const Report& report = *evidence.report;
  if (report.watchdog_fired) faults.emplace_back("the guest's watchdog thawed it before the disks were captured");
  if (!report.quiesced) faults.push_back(fmt::format("the databases were not quiesced: {}", report.failure));
  if (!evidence.copy_fault.empty())
    faults.push_back(fmt::format("the agent's report is not in the block snapshot: {}", evidence.copy_fault));
  for (const DatabaseReport& database : report.databases)
    if (database.exactness != Exactness::exact)
      faults.push_back(fmt::format("{} is {}: {}", name_of(database), to_string(database.exactness), database.reason));
  return faults;
}

}  // namespace

Judgement offered_grade(const Evidence& evidence) {
  if (!evidence.at_rest.empty()) return {Grade::crash, {evidence.at_rest}};
  if (!evidence.guest_agent_fault.empty())
    return {Grade::crash, {fmt::format("qemu-ga does not answer: {}", evidence.guest_agent_fault)}};
  if (!evidence.agent_fault.empty()) return {Grade::filesystem, {fmt::format("no agent: {}", evidence.agent_fault)}};
  return {Grade::application, {}};
}

Judgement judge(const Evidence& evidence) {
  if (!evidence.at_rest.empty())
    return {Grade::crash, {fmt::format("{}: the disks are as their last use left them", evidence.at_rest)}};
  if (!evidence.freeze_fault.empty()) return {Grade::crash, {fmt::format("not frozen: {}", evidence.freeze_fault)}};
  if (evidence.frozen == 0) return {Grade::crash, {"no file system was frozen"}};
  if (evidence.thawed < evidence.frozen)
    return {Grade::crash,
            {fmt::format("{} file systems were frozen, but only {} had to be thawed: some thawed too early",
                         evidence.frozen, evidence.thawed)}};
  if (!evidence.status_fault.empty())
    return {Grade::crash, {fmt::format("not frozen all the time: {}", evidence.status_fault)}};
  if (evidence.report && evidence.report->watchdog_fired)
    return {Grade::crash, {"the guest's watchdog thawed it before the disks were captured"}};
  if (!evidence.agent_fault.empty()) return {Grade::filesystem, {fmt::format("no agent: {}", evidence.agent_fault)}};
  std::vector<std::string> faults = faults_of(evidence);
  return {faults.empty() ? Grade::application : Grade::filesystem, std::move(faults)};
}

}  // namespace stillpoint
