// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/partitions.hh"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

namespace stillpoint {
namespace {

struct Magic {
  std::string_view type;
  std::uint64_t offset;
  std::string_view bytes;
};

using namespace std::string_view_literals;

// In the order in which they are tried. ext2/3/4 comes before all of them.
constexpr std::array magics = {
    Magic{"xfs", 0, "XFSB"sv},
    Magic{"crypto_LUKS", 0, "LUKS\xba\xbe"sv},
    Magic{"btrfs", 0x10040, "_BHRfS_M"sv},
    Magic{"linux_raid_member", 0x1000, "\xfc\x4e\x2b\xa9"sv},
    Magic{"linux_raid_member", 0, "\xfc\x4e\x2b\xa9"sv},
    Magic{"swap", 4086, "SWAPSPACE2"sv},
    Magic{"f2fs", 0x400, "\x10\x20\xf5\xf2"sv},
    Magic{"ntfs", 3, "NTFS    "sv},
    Magic{"vfat", 82, "FAT32   "sv},
    Magic{"vfat", 54, "FAT16   "sv},
    Magic{"vfat", 54, "FAT12   "sv},
    Magic{"iso9660", 32769, "CD001"sv},
};

constexpr std::size_t super_bytes = 1024;
constexpr std::uint32_t compat_journal = 0x4;
constexpr std::uint32_t incompat_recover = 0x4;
constexpr std::uint32_t incompat_journal_device = 0x8;
// What ext3 knows; more makes it ext4.
constexpr std::uint32_t ext3_incompat = 0x2 | 0x4 | 0x10;
constexpr std::uint32_t ext3_ro_compat = 0x1 | 0x2 | 0x4;

std::uint32_t u32_at(std::span<const std::byte> bytes, std::size_t offset) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;)
    value = value << 8 | static_cast<std::uint8_t>(bytes[offset + i]);
  return value;
}

std::string uuid_text(std::span<const std::byte> bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += digits[static_cast<std::uint8_t>(bytes[i]) >> 4];
    text += digits[static_cast<std::uint8_t>(bytes[i]) & 15];
  }
  return text;
}

/// Up to the first NUL, what is not printable ASCII as '?'.
std::string label_text(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    const auto c = static_cast<unsigned char>(byte);
    if (c == 0) break;
    text += c >= 32 && c < 127 ? static_cast<char>(c) : '?';
  }
  return text;
}

bool read_ext(std::span<const std::byte> super, Signature& signature) {
  if (super[56] != std::byte{0x53} || super[57] != std::byte{0xef}) return false;
  const std::uint32_t compat = u32_at(super, 92);
  const std::uint32_t incompat = u32_at(super, 96);
  const std::uint32_t ro_compat = u32_at(super, 100);
  if ((incompat & incompat_journal_device) != 0)
    signature.type = "jbd";
  else if ((incompat & ~ext3_incompat) != 0 || (ro_compat & ~ext3_ro_compat) != 0)
    signature.type = "ext4";
  else
    signature.type = (compat & compat_journal) != 0 ? "ext3" : "ext2";
  signature.clean = (incompat & incompat_recover) == 0;
  signature.uuid = uuid_text(super.subspan(104, 16));
  signature.label = label_text(super.subspan(120, 16));
  return true;
}

}  // namespace

Signature read_signature(const DiskRange& disk, std::uint64_t offset, std::uint64_t length) {
  Signature signature;
  const auto read = [&](std::span<std::byte> buffer, std::uint64_t at) {
    return at <= length && buffer.size() <= length - at && disk.read(buffer, offset + at);
  };
  std::array<std::byte, super_bytes> super{};
  if (read(super, 1024) && read_ext(super, signature)) return signature;

  for (const Magic& magic : magics) {
    std::array<std::byte, 16> bytes{};
    const auto found = std::span(bytes).first(magic.bytes.size());
    if (!read(found, magic.offset) || std::memcmp(found.data(), magic.bytes.data(), magic.bytes.size()) != 0) continue;
    signature.type = magic.type;
    std::array<std::byte, 16> uuid{};
    std::array<std::byte, 12> label{};
    const std::uint64_t begin = magic.type == "btrfs" ? 0x10020 : 32;
    if ((magic.type == "btrfs" || magic.type == "xfs") && read(uuid, begin) &&
        read(label, magic.type == "btrfs" ? 0x1012b : 108)) {
      signature.uuid = uuid_text(uuid);
      signature.label = label_text(label);
    }
    return signature;
  }
  // LVM's label lies in one of the first four sectors.
  for (std::uint64_t sector = 0; sector < 4; ++sector) {
    std::array<std::byte, 32> label{};
    if (read(label, sector * 512) && std::memcmp(label.data(), "LABELONE", 8) == 0 &&
        std::memcmp(label.data() + 24, "LVM2 001", 8) == 0)
      signature.type = "LVM2_member";
  }
  return signature;
}

}  // namespace stillpoint
