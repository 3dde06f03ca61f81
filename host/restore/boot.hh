// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "host/guest/connection.hh"
#include "host/repository/manifest.hh"
#include "host/restore/disk-server.hh"
#include "host/restore/replica-clones.hh"
#include "host/restore/state-restore.hh"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace stillpoint {

struct BootRequest {
  std::string name;                  ///< of the new domain
  std::filesystem::path directory;   ///< of its own: sockets and overlays; made, and removed again by remove_booted()
  bool network = false;              ///< with its cables plugged in
  std::vector<LoadedState> state{};  ///< of the first one; the new one gets copies
  std::optional<ReplicaToBoot> replica{};  ///< the disks are clones there, and not served
  std::filesystem::path images{};          ///< where it is to be moved; what cannot be moved is written there at once
};

struct Booted {
  Domain domain;
  std::vector<std::string> left_out;  ///< what of the first domain it does not have, in words
};

/// Starts a new domain on the disks of a still point, of which nothing is copied: they are served out of the
/// repository, and what the guest writes goes into overlays. `access`: what opens the repository; its disk means
/// nothing. Leaves nothing behind when it fails. Throws UsageError, CaptureError, Unreachable, Interrupted.
[[nodiscard]] Booted boot(Connection& libvirt, const Manifest& manifest, const ServedDisk& access,
                          const BootRequest& request, const std::stop_token& stop);

/// Whether the domain in this directory has clones of a replica for its disks.
[[nodiscard]] bool is_on_clones(const BootRequest& request);

/// The still point, in full, that the domain in this directory was booted from. Throws NotFound when `directory` is
/// none of boot()'s.
[[nodiscard]] std::string booted_from(const BootRequest& request);

/// Serves the disks of a booted domain anew and starts it, where it does not run: its disks' servers end with it.
/// `access` as for boot(). It stays as it was when that fails. Throws the same, NotFound, Locked.
[[nodiscard]] Domain resume_booted(Connection& libvirt, const Manifest& manifest, const ServedDisk& access,
                                   const BootRequest& request, const std::stop_token& stop);

/// The domain that was booted in this directory. Throws NotFound, Unreachable.
[[nodiscard]] Domain booted_domain(Connection& libvirt, const BootRequest& request);

/// Those of the still point's disks that the domain still has on its overlays: others were moved already.
[[nodiscard]] std::vector<DiskRecord> unmoved_disks(const Domain& domain, const Manifest& manifest,
                                                    const BootRequest& request);

/// Puts an end to what a commit_booted() into `images` has begun whose program was killed: a disk that was being copied
/// stays on its overlay, and the image that was not complete is deleted. Throws UsageError when `images` is no place
/// for them, Unreachable, Locked while one runs.
void end_interrupted_commit(const Domain& domain, const Manifest& manifest, const BootRequest& request,
                            const std::filesystem::path& images);

/// Throws UsageError when a domain that is booted so could not be moved into `images`.
void check_commit(const Manifest& manifest, const BootRequest& request, const std::filesystem::path& images);

/// Moves a booted domain to images of its own while it runs: TARGET.FORMAT in `images`, then it needs the repository no
/// more. `progress`: disk, bytes done, all. Throws as move_disk().
void commit_booted(const Domain& domain, const Manifest& manifest, const BootRequest& request,
                   const std::filesystem::path& images,
                   const std::function<void(const std::string&, std::uint64_t, std::uint64_t)>& progress,
                   const std::stop_token& stop);

/// Ends a domain that boot() has made, and deletes what it wrote, but for images that it was moved to. Throws NotFound
/// when `directory` is none of boot()'s.
void remove_booted(Connection& libvirt, const BootRequest& request);

}  // namespace stillpoint
