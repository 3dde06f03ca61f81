// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "host/capture/file-system-reader.hh"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace stillpoint {
namespace {

constexpr std::uint64_t piece_bytes = std::uint64_t{1} << 20;

}  // namespace

void read_file(BlockReader& disk, const TreeEntry& file, const std::function<void(const FileContent&)>& consumer) {
  if (!file.inline_content.empty()) {
    const auto bytes = std::as_bytes(std::span(file.inline_content));
    consumer({0, bytes.size(), bytes});
    if (bytes.size() < file.size) consumer({bytes.size(), file.size - bytes.size(), {}});
    return;
  }
  std::vector<std::byte> buffer;
  std::uint64_t at = 0;
  for (const TreeEntry::FileExtent& extent : file.extents) {
    if (extent.file_offset < at || extent.disk_offset > disk.size() || extent.length > disk.size() - extent.disk_offset)
      throw Corruption(fmt::format("{}: its content lies outside the disk", file.path));
    if (extent.file_offset >= file.size) break;
    if (extent.file_offset > at) consumer({at, extent.file_offset - at, {}});
    const std::uint64_t end = std::min(extent.file_offset + extent.length, file.size);
    for (at = extent.file_offset; at < end;) {
      const auto part = static_cast<std::size_t>(std::min(end - at, piece_bytes));
      buffer.resize(std::max(buffer.size(), part));
      const auto bytes = std::span(buffer).first(part);
      disk.pread(bytes, extent.disk_offset + (at - extent.file_offset));
      consumer({at, part, bytes});
      at += part;
    }
  }
  if (at < file.size) consumer({at, file.size - at, {}});
}

}  // namespace stillpoint
