// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/volume-groups.hh"

#include "common/errors.hh"
#include "common/text.hh"
#include "host/capture/tree-wire.hh"
#include "host/capture/tree-worker.hh"

#include <algorithm>
#include <string_view>

namespace stillpoint {
namespace {

[[noreturn]] void refuse_volume() {
  throw CaptureError("the file system's worker sent a logical volume that cannot be");
}

/// As LVM allows them: what else there is could leave a directory or confuse a terminal.
bool is_part(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("_.+-").find(c) != std::string_view::npos;
  });
}

Volume read_volume(wire::Reader& reader, const AssembledDisk& disk) {
  Volume volume;
  volume.name = reader.string(wire::max_volume_name);
  const std::size_t slash = volume.name.find('/');
  if (slash == std::string::npos || !is_part(std::string_view(volume.name).substr(0, slash)) ||
      !is_part(std::string_view(volume.name).substr(slash + 1)))
    refuse_volume();
  volume.uuid = printable(reader.string(64));
  volume.obstacle = printable(reader.string(wire::max_text));
  const std::uint32_t count = reader.u32();
  if (count > wire::max_pieces || (count == 0) != !volume.obstacle.empty()) refuse_volume();
  std::uint64_t total = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t offset = reader.u64();
    const std::uint64_t length = reader.u64();
    // No volume is longer than what it lies on: a small disk could fill the target.
    if (length == 0 || offset > disk.size() || length > disk.size() - offset || length > disk.size() - total)
      refuse_volume();
    total += length;
    const std::vector<DiskPart> parts = disk.parts_of(offset, length);
    volume.parts.insert(volume.parts.end(), parts.begin(), parts.end());
  }
  return volume;
}

}  // namespace

std::vector<Volume> find_volumes(const std::vector<DiskPart>& physical) {
  if (physical.empty()) return {};
  if (physical.size() > wire::max_volumes) throw CaptureError("more physical volumes than are looked at");
  AssembledDisk disk(physical);
  wire::Writer request(wire::Type::volumes);
  request.u64(disk.size());
  request.u32(static_cast<std::uint32_t>(physical.size()));
  std::uint64_t begin = 0;
  for (const DiskPart& part : physical) {
    request.u64(begin);
    request.u64(part.length);
    begin += part.length;
  }
  TreeWorker worker;
  worker.send(request.finish());
  const wire::Message& answer = worker.receive(disk);
  wire::Reader reader(answer.payload);
  if (answer.type == wire::Type::failure) throw CaptureError(printable(reader.string(wire::max_text)));
  if (answer.type != wire::Type::volumes) throw CaptureError("the file system's worker gave another answer");
  const std::uint32_t count = reader.u32();
  if (count > wire::max_volumes) throw CaptureError("the file system's worker sent too many logical volumes");
  std::vector<Volume> volumes;
  for (std::uint32_t i = 0; i < count; ++i)
    volumes.push_back(read_volume(reader, disk));
  return volumes;
}

std::vector<OpenedVolume> open_volumes(const std::vector<VolumeSource>& disks) {
  std::vector<DiskPart> physical;
  for (const VolumeSource& source : disks)
    for (const FileSystem& found : *source.found)
      if (found.type == "LVM2_member" && found.length > 0)
        physical.push_back({source.disk, found.offset, found.length});
  std::vector<OpenedVolume> opened;
  for (Volume& volume : find_volumes(physical)) {
    OpenedVolume& made = opened.emplace_back();
    if (!volume.obstacle.empty()) {
      FileSystem& obstructed = made.found.emplace_back();
      obstructed.obstacle = std::move(volume.obstacle);
    } else {
      const auto first = std::find_if(disks.begin(), disks.end(), [&volume](const VolumeSource& source) {
        return source.disk == volume.parts.front().disk;
      });
      made.target = first->target;
      made.content = std::make_unique<AssembledDisk>(std::move(volume.parts));
      made.files = std::make_unique<FileSystemReader>(*made.content);
      made.found = made.files->file_systems();
    }
    for (FileSystem& found : made.found)
      found.volume = found.partition == 0 ? volume.name : volume.name + "p" + std::to_string(found.partition);
  }
  return opened;
}

}  // namespace stillpoint
