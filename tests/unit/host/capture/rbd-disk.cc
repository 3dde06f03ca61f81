// SPDX-License-Identifier: LGPL-2.1-or-later
// Run by tests/functional/ceph.py, on a cluster of its own (CEPH_CONF).
#include "host/capture/rbd-disk.hh"

#include "common/errors.hh"
#include "host/ceph/cluster.hh"

#include <doctest/doctest.h>

#include <vector>

using namespace stillpoint;

TEST_CASE("of a batch that fails no read is left in flight, for the buffers are the caller's") {
  constexpr std::size_t size = 8 << 20;
  const std::unique_ptr<RbdPool> pool = connect_ceph({})->rbd_pool("rbd", "");
  pool->create("batch", {size, 22});
  RbdDisk disk(pool->open("batch", RbdAccess::read), 0);
  std::vector<std::byte> buffer(size);
  const std::vector<BlockReader::Request> requests{
      {0, std::span(buffer).first(size / 2)}, {size / 2, std::span(buffer).last(size / 2)}, {size, buffer}};
  CHECK_THROWS_AS(disk.pread_many(requests), CaptureError);
  CHECK(disk.reads_in_flight() == 0);
}
