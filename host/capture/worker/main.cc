// SPDX-License-Identifier: LGPL-2.1-or-later
// stillpoint-tree-worker: reads file systems for the companion, which starts it with a socket as descriptor 3.
#include "common/errors.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/worker/block-service.hh"
#include "host/capture/worker/ext-walk.hh"
#include "host/capture/worker/partitions.hh"
#include "host/capture/worker/sandbox.hh"
#include "host/capture/worker/volume-groups.hh"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <exception>
#include <string_view>
#include <vector>

namespace stillpoint {
namespace {

constexpr int socket_fd = 3;

void say(Parent& parent, wire::Type type, std::string_view text) {
  wire::Writer message(type);
  message.string(text.substr(0, wire::max_text));
  parent.send(message.finish());
}

bool is_ext(std::string_view type) {
  return type == "ext2" || type == "ext3" || type == "ext4";
}

void list(BlockService& blocks, Parent& parent) {
  const DiskRange disk = {
      [&blocks](std::span<std::byte> buffer, std::uint64_t offset) { return blocks.read(buffer, offset); },
      blocks.size()};
  // A file system that fills the disk may leave an old partition table in its first sector.
  std::vector<Partition> partitions;
  if (read_signature(disk, 0, disk.size).type.empty()) partitions = read_partitions(disk);
  if (partitions.empty()) partitions.push_back({0, 0, disk.size});
  wire::Writer answer(wire::Type::file_systems);
  answer.u32(static_cast<std::uint32_t>(partitions.size()));
  for (const Partition& partition : partitions) {
    const Signature signature = read_signature(disk, partition.offset, partition.length);
    answer.u32(partition.number);
    answer.u64(partition.offset);
    answer.u64(partition.length);
    answer.string(signature.type);
    answer.string(signature.uuid);
    answer.string(signature.label);
    answer.u8(signature.clean ? 1 : 0);
  }
  parent.send(answer.finish());
}

void list_volumes(BlockService& blocks, Parent& parent, wire::Reader& request) {
  const DiskRange disk = {[&blocks](std::span<std::byte> buffer, std::uint64_t at) { return blocks.read(buffer, at); },
                          blocks.size()};
  const std::uint32_t count = request.u32();
  if (count > wire::max_volumes) throw CaptureError("more physical volumes than are looked at");
  std::vector<DiskPiece> ranges(count);
  for (DiskPiece& range : ranges)
    range = {request.u64(), request.u64()};
  const std::vector<LogicalVolume> volumes = read_volume_groups(disk, ranges);
  wire::Writer answer(wire::Type::volumes);
  answer.u32(static_cast<std::uint32_t>(volumes.size()));
  for (const LogicalVolume& volume : volumes) {
    answer.string(volume.name);
    answer.string(volume.uuid);
    answer.string(volume.obstacle);
    answer.u32(static_cast<std::uint32_t>(volume.pieces.size()));
    for (const DiskPiece& piece : volume.pieces) {
      answer.u64(piece.offset);
      answer.u64(piece.length);
    }
  }
  parent.send(answer.finish());
}

void walk(BlockService& blocks, Parent& parent, wire::Reader& request) {
  const std::uint64_t offset = request.u64();
  const std::uint64_t length = request.u64();
  const std::string_view path = request.string(wire::max_path);
  const bool recursive = request.u8() != 0;
  const DiskRange disk = {[&blocks](std::span<std::byte> buffer, std::uint64_t at) { return blocks.read(buffer, at); },
                          blocks.size()};
  const Signature signature = read_signature(disk, offset, length);
  if (!is_ext(signature.type))
    throw CaptureError(signature.type.empty() ? std::string("there is no file system that can be read")
                                              : fmt::format("file systems of type {} are not read", signature.type));
  walk_ext(blocks, parent, offset, length, path, recursive);
  parent.send(wire::Writer(wire::Type::end).finish());
}

void serve(Parent& parent) {
  BlockService blocks(parent);
  for (;;) {
    const wire::Message message = parent.receive();
    wire::Reader request(message.payload);
    try {
      blocks.set_size(request.u64());
      if (message.type == wire::Type::list)
        list(blocks, parent);
      else if (message.type == wire::Type::volumes)
        list_volumes(blocks, parent, request);
      else if (message.type == wire::Type::walk)
        walk(blocks, parent, request);
      else
        throw CaptureError("a request that is not known");
    } catch (const NotFound& error) {
      say(parent, wire::Type::not_found, error.what());
    } catch (const std::bad_alloc&) {
      say(parent, wire::Type::failure, "it takes more memory than a sound file system would");
    } catch (const std::exception& error) {
      say(parent, wire::Type::failure, error.what());
    }
  }
}

}  // namespace
}  // namespace stillpoint

int main() {
  using namespace stillpoint;
  int type = 0;
  socklen_t length = sizeof type;
  if (::getsockopt(socket_fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) {
    static constexpr std::string_view text = "stillpoint-tree-worker is started by stillpoint itself\n";
    return ::write(STDERR_FILENO, text.data(), text.size()) > 0 ? 2 : 3;
  }
  Parent parent(socket_fd);
  try {
    enter_sandbox();
    serve(parent);
  } catch (const std::exception& error) {
    say(parent, wire::Type::failure, error.what());
  }
  ::_exit(1);
}
