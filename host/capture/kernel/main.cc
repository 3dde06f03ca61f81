// SPDX-License-Identifier: LGPL-2.1-or-later
// stillpoint-kernel-worker: reads file systems for the companion that this machine's kernel mounts, where the operator
// trusts the guest. It is started with a socket for questions as descriptor 3, and one for blocks as descriptor 4.
#include "common/errors.hh"
#include "host/capture/appliance/confinement.hh"
#include "host/capture/kernel/kernel-mounts.hh"
#include "host/capture/kernel/kernel-walk.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/worker/block-service.hh"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <new>
#include <optional>
#include <string_view>
#include <vector>

namespace stillpoint {
namespace {

constexpr int questions_fd = 3;
constexpr int blocks_socket = 4;
constexpr rlim_t most_memory = rlim_t{2} << 30;
/// A directory each of those that the deepest path has, and some more.
constexpr rlim_t most_open = wire::max_depth + wire::max_disks + 100;

class KernelService {
 public:
  KernelService(Parent& parent, const WritablePlaces& places) : parent_(parent), places_(places) {}

  [[noreturn]] void serve() {
    for (;;)
      answer(parent_.receive());
  }

 private:
  void say(wire::Type type, std::string_view text) {
    wire::Writer message(type);
    message.string(text.substr(0, wire::max_text));
    parent_.send(message.finish());
  }

  void answer(const wire::Message& message) {
    wire::Reader request(message.payload);
    try {
      if (message.type == wire::Type::list)
        list(request);
      else if (message.type == wire::Type::walk)
        walk(request);
      else if (message.type == wire::Type::content)
        read_content(request);
      else
        throw CaptureError("a request that is not known");
    } catch (const NotFound& error) {
      say(wire::Type::not_found, error.what());
    } catch (const std::bad_alloc&) {
      say(wire::Type::failure, "it takes more memory than a sound file system would");
    } catch (const std::exception& error) {
      say(wire::Type::failure, error.what());
    }
  }

  void list(wire::Reader& request) {
    std::vector<KernelDevice> devices(request.u32());
    for (KernelDevice& device : devices) {
      device.name = request.string(wire::max_text);
      device.size = request.u64();
      device.type = request.string(32);
    }
    mounts_.emplace(places_, std::move(devices), blocks_socket);
    limit_memory();
    found_ = mounts_->mount_all([this] { parent_.send(wire::Writer(wire::Type::next).finish()); });
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
    parent_.send(answer.finish());
  }

  /// What we run has its own bounds by now; a directory without an end must not cost the host its memory.
  static void limit_memory() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which need terabytes
    const rlimit memory = {most_memory, most_memory};
    if (::setrlimit(RLIMIT_AS, &memory) != 0) throw_errno("cannot limit the worker that mounts");
#endif
  }

  void walk(wire::Reader& request) {
    const std::uint32_t number = request.u32();
    const std::string_view path = request.string(wire::max_path);
    const bool recursive = request.u8() != 0;
    if (!mounts_ || number >= found_.size()) throw CaptureError("there is no such file system");
    walk_mounted(*mounts_, contents_, parent_, found_[number], path, recursive, [this] {
      for (;;) {
        const wire::Message message = parent_.receive();
        if (message.type == wire::Type::next) return;
        answer(message);
      }
    });
    parent_.send(wire::Writer(wire::Type::end).finish());
  }

  void read_content(wire::Reader& request) {
    const std::uint64_t offset = request.u64();
    const std::uint32_t length = request.u32();
    if (length > wire::max_read) throw CaptureError("there is no such content");
    std::string bytes(length, '\0');
    contents_.read(bytes, offset);
    wire::Writer answer(wire::Type::blocks);
    answer.bytes(bytes);
    parent_.send(answer.finish());
  }

  Parent& parent_;
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
  int type = 0;
  socklen_t length = sizeof type;
  if (::getsockopt(questions_fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) {
    static constexpr std::string_view text = "stillpoint-kernel-worker is started by stillpoint itself\n";
    return ::write(STDERR_FILENO, text.data(), text.size()) > 0 ? 2 : 3;
  }
  for (const int fd : {questions_fd, blocks_socket})
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  Parent parent(questions_fd);
  try {
    const WritablePlaces places = confine_to_mount();
    allow_open_files();
    KernelService(parent, places).serve();
  } catch (const std::exception& error) {
    wire::Writer message(wire::Type::failure);
    message.string(std::string_view(error.what()).substr(0, wire::max_text));
    parent.send(message.finish());
  }
  ::_exit(1);
}
