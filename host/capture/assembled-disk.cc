// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/assembled-disk.hh"

#include "common/errors.hh"

#include <algorithm>
#include <map>
#include <utility>

namespace stillpoint {

AssembledDisk::AssembledDisk(std::vector<DiskPart> parts) : parts_(std::move(parts)) {
  begins_.reserve(parts_.size());
  for (const DiskPart& part : parts_) {
    begins_.push_back(size_);
    if (part.length > INT64_MAX - size_) throw CaptureError("a volume that is longer than any can be");
    size_ += part.length;
  }
}

std::size_t AssembledDisk::part_at(std::uint64_t offset) const {
  return static_cast<std::size_t>(std::upper_bound(begins_.begin(), begins_.end(), offset) - begins_.begin()) - 1;
}

std::vector<DiskPart> AssembledDisk::parts_of(std::uint64_t offset, std::uint64_t length) const {
  std::vector<DiskPart> found;
  for (std::size_t i = length == 0 ? parts_.size() : part_at(offset); length > 0; ++i) {
    const std::uint64_t skip = offset - begins_[i];
    const std::uint64_t taken = std::min(length, parts_[i].length - skip);
    found.push_back({parts_[i].disk, parts_[i].offset + skip, taken});
    offset += taken;
    length -= taken;
  }
  return found;
}

void AssembledDisk::pread(std::span<std::byte> buffer, std::uint64_t offset) {
  for (const DiskPart& part : parts_of(offset, buffer.size())) {
    part.disk->pread(buffer.first(part.length), part.offset);
    buffer = buffer.subspan(part.length);
  }
}

void AssembledDisk::pread_many(std::span<const Request> requests) {
  // Each disk gets all of its own at once.
  std::map<BlockReader*, std::vector<Request>> by_disk;
  for (const Request& request : requests) {
    std::span<std::byte> rest = request.buffer;
    for (const DiskPart& part : parts_of(request.offset, rest.size())) {
      by_disk[part.disk].push_back({part.offset, rest.first(part.length)});
      rest = rest.subspan(part.length);
    }
  }
  for (const auto& [disk, list] : by_disk)
    disk->pread_many(list);
}

std::vector<Extent> AssembledDisk::extents(std::uint64_t offset, std::uint64_t length) {
  if (length == 0) return {};
  // The first part's answer is enough: whoever asks goes on from where it ends.
  const DiskPart part = parts_of(offset, length).front();
  std::vector<Extent> found = part.disk->extents(part.offset, part.length);
  for (Extent& extent : found)
    extent.offset = extent.offset - part.offset + offset;
  return found;
}

}  // namespace stillpoint
