// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/scratch-watch.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

TEST_CASE("the floor of free scratch space") {
  constexpr std::uint64_t mib = 1 << 20;
  CHECK(scratch_floor(256 * mib) == 64 * mib);
  CHECK(scratch_floor(4000 * mib) == 200 * mib);
  CHECK(scratch_floor(4000000 * mib) == 512 * mib);
}

TEST_CASE("the space of a directory") {
  CHECK(space_of("/").size > 0);
  CHECK_THROWS_AS(static_cast<void>(space_of("/nonexistent")), CaptureError);
}
