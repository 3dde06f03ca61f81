// SPDX-License-Identifier: LGPL-2.1-or-later
// stillpoint-kernel-worker: reads file systems for the companion that this machine's kernel mounts, where the operator
// trusts the guest. It is started with a socket for questions as descriptor 3, and one for blocks as descriptor 4.
#include "common/errors.hh"
#include "host/capture/appliance/asked-service.hh"
#include "host/capture/appliance/confinement.hh"
#include "host/capture/kernel/kernel-mounts.hh"
#include "host/capture/kernel/kernel-walk.hh"

#include <sys/resource.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <vector>

namespace stillpoint {
namespace {

/// A directory each of those that the deepest path has, and some more.
constexpr rlim_t most_open = wire::max_depth + wire::max_disks + 100;

class KernelService : public AskedService {
 public:
  KernelService(Parent& parent, const WritablePlaces& places) : AskedService(parent), places_(places) {}

 private:
  void list(wire::Reader& request) override {
    std::vector<KernelDevice> devices(request.u32());
    for (KernelDevice& device : devices) {
      device.name = request.string(wire::max_text);
      device.size = request.u64();
      device.type = request.string(32);
    }
    mounts_.emplace(places_, std::move(devices), blocks_socket);
    limit_memory();
    found_ = mounts_->mount_all([this] { parent().send(wire::Writer(wire::Type::next).finish()); });
    wire::Writer answer(wire::Type::file_systems);
    answer.u32(static_cast<std::uint32_t>(found_.size()));
    for (const MountedFileSystem& each : found_) {
      answer.string(each.name);
      answer.u64(each.length);
      answer.string(each.type);
      // The companion knows them.
      answer.string({});
      answer.string({});
      answer.string(std::string_view(each.obstacle).substr(0, wire::max_text));
    }
    parent().send(answer.finish());
  }

  void walk(std::uint32_t number, std::string_view path, bool recursive) override {
    if (!mounts_ || number >= found_.size()) throw CaptureError("there is no such file system");
    walk_mounted(*mounts_, contents_, parent(), found_[number], path, recursive, [this] { await_next(); });
  }

  void read(std::span<char> buffer, std::uint64_t offset) override { contents_.read(buffer, offset); }

  WritablePlaces places_;
  std::optional<KernelMounts> mounts_;
  KernelContents contents_;
  std::vector<MountedFileSystem> found_;
};

void allow_open_files() {
  rlimit limits{};
  if (::getrlimit(RLIMIT_NOFILE, &limits) != 0) return;
  limits.rlim_cur = std::min(limits.rlim_max, most_open);
  ::setrlimit(RLIMIT_NOFILE, &limits);
}

}  // namespace
}  // namespace stillpoint

int main() {
  using namespace stillpoint;
  return run_asked_worker("stillpoint-kernel-worker", [](Parent& parent) {
    const WritablePlaces places = confine_to_mount();
    allow_open_files();
    KernelService(parent, places).serve();
  });
}
