// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/queued-reader.hh"
#include "host/capture/tree-filter.hh"
#include "host/commands/tree-layout.hh"
#include "host/guest/agent-client.hh"
#include "host/guest/domain.hh"
#include "host/repository/manifest.hh"
#include "host/repository/repository.hh"

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace stillpoint {

class Progress;
class TaskGroup;

/// One disk at the instant, and what is known of it.
struct DiskSource {
  std::string target;       ///< "vda"
  std::string source;       ///< for the record
  std::string format;       ///< for the record
  std::string full_reason;  ///< why it is read in full; empty: incremental on `base`
  std::optional<DiskMap> base;
  /// A new reader each time; called from several threads.
  std::function<std::unique_ptr<QueuedReader>()> open;
  std::optional<RbdBase> rbd{};  ///< what the next still point starts from
};

/// The levels of one still point, captured in parallel. Each call starts threads in `tasks` that fill in records of the
/// manifest; they are complete after TaskGroup::wait(). The arguments outlive that.

/// At most `parallel` disks at once.
void capture_disks(TaskGroup& tasks, Repository& repository, const std::vector<DiskSource>& disks, unsigned parallel,
                   Progress& progress, std::vector<DiskRecord>& records);

/// Every dump that the manifest's report names, built on earlier ones of the domain; a dump that fails has a record
/// with the reason. Lets the agent's database snapshots go at the end.
void capture_dumps(TaskGroup& tasks, Repository& repository, AgentClient& agent, Progress& progress,
                   Manifest& manifest);

}  // namespace stillpoint
