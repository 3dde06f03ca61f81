// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "host/guest/connection.hh"
#include "host/repository/drill-record.hh"
#include "host/repository/repository.hh"
#include "host/restore/boot.hh"
#include "host/restore/disk-server.hh"

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>

namespace stillpoint {

struct DrillRequest {
  BootRequest boot;  ///< the domain's name and directory; without network
  std::chrono::milliseconds answer_within = std::chrono::minutes(10);  ///< the guest, and then its databases
  std::chrono::milliseconds timeout = std::chrono::hours(12);          ///< all of it
  bool read_disks = true;                                              ///< all their data, through
  bool keep = false;                                                   ///< the domain, for somebody to look at
};

/// What is told while a drill runs.
struct DrillObserver {
  /// A line for a disk that is read, as long as it lives.
  std::function<std::unique_ptr<CaptureProgress>(const std::string&)> progress;
  std::function<void(const DrillStep&)> step;
};

/// Boots a still point isolated, lets its databases recover, and compares them with their dumps. The domain and all
/// that it wrote are gone on return, whatever happens. What is wrong with the still point, or with the guest, is in the
/// record. Throws UsageError, StorageError, Unreachable for what is wrong here; Interrupted.
[[nodiscard]] DrillRecord drill_by_boot(Connection& libvirt, Repository& repository, const Manifest& manifest,
                                        const ServedDisk& access, const DrillRequest& request,
                                        const DrillObserver& observer, const std::stop_token& stop);

}  // namespace stillpoint
