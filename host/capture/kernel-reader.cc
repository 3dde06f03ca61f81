// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/kernel-reader.hh"

#include "common/errors.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/tree-worker.hh"

#include <chrono>
#include <utility>

namespace stillpoint {
namespace {

/// Of one mount, which reads what a journal has, and btrfs more than that.
constexpr std::chrono::minutes kernel_limit{5};

}  // namespace

bool is_for_kernel(const FileSystem& found) {
  // Never one that is read in a sandbox, whatever state it is in: ext4's superblock can ask a kernel to panic.
  // Nor f2fs, whose superblock names devices of the machine that it wants to have opened.
  return found.obstacle.empty() && found.length > 0 && !found.readable() && found.is_for_appliance() &&
         found.type != "f2fs";
}

KernelReader::KernelReader(std::vector<KernelFileSystem> list, std::stop_token stop)
    : AskedReader(*list.front().disk), list_(std::move(list)), stop_(std::move(stop)) {}

std::vector<FileSystem> KernelReader::file_systems() {
  if (list_.size() > wire::max_disks) throw CaptureError("more file systems than are mounted at once");
  wire::Writer question(wire::Type::list);
  std::vector<DiskPart> parts;
  question.u32(static_cast<std::uint32_t>(list_.size()));
  for (const KernelFileSystem& each : list_) {
    question.string(each.name);
    question.u64(each.found.length);
    question.string(each.found.type);
    parts.push_back({each.disk, each.found.offset, each.found.length});
  }
  std::vector<FileSystem> made =
      start({.name = "stillpoint-kernel-worker",
             .words = "the worker of file systems that the kernel mounts",
             .environment = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"},
             .answer_limit = kernel_limit,
             .asks_for_blocks_apart = true,
             .has_errors = false,
             .stop = stop_},
            std::move(parts), question);
  for (FileSystem& mounted : made)
    for (const KernelFileSystem& each : list_)
      if (mounted.volume == each.name || mounted.volume.starts_with(each.name + "/")) {
        mounted.uuid = each.found.uuid;
        mounted.label = each.found.label;
      }
  return made;
}

}  // namespace stillpoint
