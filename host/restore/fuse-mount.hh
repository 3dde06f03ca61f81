// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/restore/mount-node.hh"

#include <filesystem>
#include <memory>
#include <stop_token>
#include <string>

namespace stillpoint {

struct FuseOptions {
  std::filesystem::path directory;  ///< absolute; an empty directory
  std::string source;               ///< what mount(8) shows as mounted
  bool allow_other = false;         ///< others than who mounts may look, as the modes allow it
};

/// A directory of ours as a file system of the kernel's, by FUSE: read-only, nosuid, nodev.
class FuseMount {
 public:
  /// Mounts it. Throws ConfigError with what is wrong. What it shows is asked of `root` from several threads.
  FuseMount(MountNode::Shared root, const FuseOptions& options);
  FuseMount(const FuseMount&) = delete;
  FuseMount& operator=(const FuseMount&) = delete;
  /// Unmounts it, also where somebody uses it still: he gets errors.
  ~FuseMount();

  /// Answers until somebody has unmounted it or `stop` is requested.
  void serve(const std::stop_token& stop);

 private:
  class Session;
  std::unique_ptr<Session> session_;
};

}  // namespace stillpoint
