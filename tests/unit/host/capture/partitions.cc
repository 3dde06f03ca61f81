// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/worker/partitions.hh"

#include "tests/unit/host/capture/scratch.hh"

#include <cstring>

using namespace stillpoint;
using namespace stillpoint::test;

namespace {

DiskRange range_of(const std::vector<std::byte>& bytes) {
  return {[&bytes](std::span<std::byte> buffer, std::uint64_t offset) {
            if (offset > bytes.size() || buffer.size() > bytes.size() - offset) return false;
            std::memcpy(buffer.data(), bytes.data() + offset, buffer.size());
            return true;
          },
          bytes.size()};
}

std::vector<Partition> partitions_of(const std::vector<std::byte>& bytes) {
  return read_partitions(range_of(bytes));
}

std::string text(const std::vector<Partition>& partitions) {
  std::string result;
  for (const Partition& partition : partitions)
    result += fmt::format("{}:{}+{} ", partition.number, partition.offset / 512, partition.length / 512);
  return result;
}

constexpr const char* gpt_script =
    "truncate -s 8M disk; printf 'label: gpt\\ndisk1: start=2048,size=2048\\ndisk2: start=4096,size=100,type=swap\\n"
    "disk7: start=6000,size=500\\n' | sfdisk -q disk\n";

}  // namespace

TEST_CASE("a GPT is read, from its copy where the first is damaged") {
  const Scratch scratch;
  scratch.run(gpt_script);
  auto disk = read_whole(scratch / "disk");
  const std::string expected = "1:2048+2048 2:4096+100 7:6000+500 ";
  CHECK(text(partitions_of(disk)) == expected);
  disk[1024 + 32] ^= std::byte{1};  // an entry of the first table
  CHECK(text(partitions_of(disk)) == expected);
  disk[512] = std::byte{0};  // its header
  CHECK(text(partitions_of(disk)) == expected);
  disk[disk.size() - 512 + 20] ^= std::byte{1};
  CHECK(partitions_of(disk).empty());
}

TEST_CASE("an MBR is read, with logical partitions") {
  const Scratch scratch;
  scratch.run(
      "truncate -s 16M disk; printf 'label: dos\\nstart=2048,size=2048\\nstart=4096,size=100,type=83,bootable\\n"
      "start=8192,size=20000,type=5\\nstart=10000,size=1000\\nstart=14000,size=2000\\nstart=20000,size=8000\\n' | "
      "sfdisk -q disk\n");
  auto disk = read_whole(scratch / "disk");
  CHECK(text(partitions_of(disk)) == "1:2048+2048 2:4096+100 5:10000+1000 6:14000+2000 7:20000+8000 ");
  // A chain of tables that bites its tail ends all the same.
  const std::size_t second = [&] {
    for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t at = 8192 * 512 + 446 + 16 * i;
      if (disk[at + 4] == std::byte{5}) return at;
    }
    return std::size_t{0};
  }();
  REQUIRE(second != 0);
  std::memset(disk.data() + second + 8, 0, 4);
  CHECK(partitions_of(disk).size() <= 300);
  // A disk that was cut keeps what it still has.
  disk.resize(4150 * 512);
  CHECK(text(partitions_of(disk)) == "1:2048+2048 2:4096+54 ");
}

TEST_CASE("anything else is no partition table") {
  CHECK(partitions_of({}).empty());
  CHECK(partitions_of(std::vector<std::byte>(1 << 20)).empty());
  for (std::uint32_t seed = 0; seed < 2000; ++seed) {
    auto disk = random_bytes(8192, seed);
    disk[510] = std::byte{0x55};
    disk[511] = std::byte{0xaa};
    if (seed % 2 == 0) disk[450] = std::byte{0xee};
    if (seed % 4 == 0) std::memcpy(disk.data() + 512, "EFI PART", 8);
    for (const Partition& partition : partitions_of(disk))
      CHECK(partition.offset + partition.length <= disk.size());
  }
}

TEST_CASE("file systems are told by their magic numbers") {
  const Scratch scratch;
  scratch.run(
      "mkfs.xfs -q -f -d file,size=300m,name=xfs; truncate -s 64M swap btrfs; mkswap -q swap 2>/dev/null || mkswap "
      "swap\n"
      "mke2fs -q -t ext4 -L name -U 01234567-89ab-cdef-0123-456789abcdef ext4 8M\n"
      "mke2fs -q -t ext3 ext3 8M; mke2fs -q -t ext2 ext2 8M\n"
      "debugfs -w -R 'feature needs_recovery' ext4\n"
      "mke2fs -q -O journal_dev jbd 8M\n");
  const auto signature = [&](const char* name) {
    const auto disk = read_whole(scratch / name);
    return read_signature(range_of(disk), 0, disk.size());
  };
  const Signature ext4 = signature("ext4");
  CHECK(ext4.type == "ext4");
  CHECK(ext4.label == "name");
  CHECK(ext4.uuid == "01234567-89ab-cdef-0123-456789abcdef");
  CHECK_FALSE(ext4.clean);
  CHECK(signature("ext3").type == "ext3");
  CHECK(signature("ext3").clean);
  CHECK(signature("ext2").type == "ext2");
  CHECK(signature("jbd").type == "jbd");
  CHECK(signature("xfs").type == "xfs");
  CHECK(signature("swap").type == "swap");
  CHECK(signature("btrfs").type.empty());

  std::vector<std::byte> lvm(8192);
  std::memcpy(lvm.data() + 512, "LABELONE", 8);
  std::memcpy(lvm.data() + 512 + 24, "LVM2 001", 8);
  CHECK(read_signature(range_of(lvm), 0, lvm.size()).type == "LVM2_member");
  std::vector<std::byte> luks(8192);
  std::memcpy(luks.data(), "LUKS\xba\xbe", 6);
  CHECK(read_signature(range_of(luks), 0, luks.size()).type == "crypto_LUKS");
  CHECK(read_signature(range_of(luks), 0, 3).type.empty());
}
