// SPDX-License-Identifier: LGPL-2.1-or-later
// The first bytes of a guest's disk and its last: partition tables and what their ranges hold.
#include "host/capture/worker/partitions.hh"

#include <cstdint>
#include <cstdlib>
#include <cstring>

using namespace stillpoint;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // Half of the input lies at the front of a disk that reads as zeros between, half at its end.
  const std::uint64_t disk_size = (std::uint64_t{64} << 20U) + size;
  const std::uint64_t tail = disk_size - size / 2;
  std::uint64_t reads = 0;
  const DiskRange disk{
      [&](std::span<std::byte> buffer, std::uint64_t offset) {
        if (++reads > 1000000) std::abort();  // a chain of tables without an end
        if (offset > disk_size || buffer.size() > disk_size - offset) return false;
        for (std::size_t i = 0; i < buffer.size(); ++i) {
          const std::uint64_t at = offset + i;
          const std::uint64_t front = size - size / 2;
          buffer[i] = static_cast<std::byte>(at < front ? data[at] : at >= tail ? data[front + (at - tail)] : 0);
        }
        return true;
      },
      disk_size};
  static_cast<void>(read_signature(disk, 0, disk_size));
  for (const Partition& partition : read_partitions(disk)) {
    if (partition.offset > disk_size || partition.length > disk_size - partition.offset) std::abort();
    static_cast<void>(read_signature(disk, partition.offset, partition.length));
  }
  return 0;
}
