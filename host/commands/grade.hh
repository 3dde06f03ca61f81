// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/report.hh"
#include "host/repository/manifest.hh"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// What was seen while a still point was taken. Faults are empty where there was none.
struct Evidence {
  std::string at_rest;            ///< why no guest ran on the disks; empty when one did
  std::string guest_agent_fault;  ///< why qemu-ga did not answer
  std::string agent_fault;        ///< why our agent did not answer or could not prepare
  std::string freeze_fault;       ///< why the file systems were not frozen
  std::uint64_t frozen = 0;       ///< file systems
  std::uint64_t thawed = 0;       ///< file systems
  std::string status_fault;       ///< why qemu-ga did not say "frozen" before and after the disks were captured
  std::optional<Report> report;   ///< the agent's, of this still point's id
  std::string report_fault;       ///< why there is none
  std::string copy_fault;         ///< why the report does not lie in the block snapshot, where it should
};

struct Judgement {
  Grade grade = Grade::crash;
  std::vector<std::string> reasons;  ///< why it is not better; empty for application
};

/// The grade that the guest can have, as far as one can tell before the freeze: what --require means when it is not
/// given.
[[nodiscard]] Judgement offered_grade(const Evidence& evidence);

/// The grade that the evidence proves. Success is a positive signal: what is not attested is not granted.
[[nodiscard]] Judgement judge(const Evidence& evidence);

}  // namespace stillpoint
