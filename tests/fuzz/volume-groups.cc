// SPDX-License-Identifier: LGPL-2.1-or-later
// Metadata text of LVM, behind labels and checksums that are right: which volumes a hostile guest can make of its disk.
#include "host/capture/worker/volume-groups.hh"

#include "host/capture/worker/disk-bytes.hh"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

using namespace stillpoint;

namespace {

constexpr std::size_t volume_bytes = 256 << 10;
constexpr std::size_t area_begin = 4096;
constexpr std::size_t area_bytes = volume_bytes - area_begin;
constexpr std::uint32_t crc_begin = 0xf597a6cf;

void put(std::span<std::byte> bytes, std::size_t offset, std::uint64_t value, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i)
    bytes[offset + i] = static_cast<std::byte>(value >> (8 * i));
}

void copy(std::span<std::byte> bytes, std::size_t offset, std::string_view text) {
  std::memcpy(bytes.data() + offset, text.data(), text.size());
}

/// A physical volume whose metadata is that text; `id` is its id's one character.
void make_volume(std::span<std::byte> disk, char id, std::span<const std::uint8_t> text) {
  const auto label = disk.subspan(512, 512);
  copy(label, 0, "LABELONE");
  put(label, 8, 1, 8);
  put(label, 20, 32, 4);
  copy(label, 24, "LVM2 001");
  copy(label, 32, std::string(32, id));
  put(label, 64, disk.size(), 8);
  put(label, 72, disk.size(), 8);  // contents; the list ends in zeros
  put(label, 104, area_begin, 8);
  put(label, 112, area_bytes, 8);
  put(label, 16, plain_crc32(crc_begin, label.subspan(20)), 4);
  const auto header = disk.subspan(area_begin, 512);
  copy(header, 4, " LVM2 x[5A%r0N*>");
  put(header, 20, 1, 4);
  put(header, 24, area_begin, 8);
  put(header, 32, area_bytes, 8);
  put(header, 40, 512, 8);
  put(header, 48, text.size(), 8);
  put(header, 56, plain_crc32(crc_begin, std::as_bytes(text)), 4);
  put(header, 0, plain_crc32(crc_begin, header.subspan(4)), 4);
  std::memcpy(disk.data() + area_begin + 512, text.data(), text.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > area_bytes - 512) return 0;
  std::vector<std::byte> bytes(2 * volume_bytes);
  make_volume(std::span(bytes).first(volume_bytes), 'a', {data, size});
  make_volume(std::span(bytes).subspan(volume_bytes), 'b', {data, size});
  const DiskRange disk{[&bytes](std::span<std::byte> buffer, std::uint64_t offset) {
                         if (offset > bytes.size() || buffer.size() > bytes.size() - offset) return false;
                         std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), buffer.size(),
                                     buffer.begin());
                         return true;
                       },
                       bytes.size()};
  const std::array<DiskPiece, 2> ranges = {DiskPiece{0, volume_bytes}, DiskPiece{volume_bytes, volume_bytes}};
  for (const LogicalVolume& volume : read_volume_groups(disk, ranges)) {
    if (volume.pieces.empty() == volume.obstacle.empty()) std::abort();
    for (const DiskPiece& piece : volume.pieces)
      if (piece.length == 0 || piece.offset > bytes.size() || piece.length > bytes.size() - piece.offset) std::abort();
  }
  return 0;
}
