// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/progress-line.hh"

#include <doctest/doctest.h>

using namespace stillpoint;
using namespace std::chrono_literals;

TEST_CASE("a line has bar, sizes, rate and time left") {
  CHECK(progress_text({"vda", 1'000'000'000, 4'000'000'000, 2s, false}, 5, 100) ==
        "vda    [#####---------------]  25%  1.0 GB of 4.0 GB  500 MB/s  7.0 s left");
  CHECK(progress_text({"vda", 1'000'000, 4'000'000, 100ms, false}, 3, 100) ==
        "vda  [#####---------------]  25%  1.0 MB of 4.0 MB");
}

TEST_CASE("without a total there is no bar") {
  CHECK(progress_text({"app", 2'000'000, 2'000'000, 1s, false}, 3, 100) == "app  2.0 MB  2.0 MB/s");
  CHECK(progress_text({"app", 0, 0, 1s, false}, 3, 100) == "app  0 B");
}

TEST_CASE("what has ended says so, and no line is longer than the terminal") {
  CHECK(progress_text({"vda", 1000, 4000, 1s, true}, 3, 100) == "vda  1.0 kB in 1.0 s");
  CHECK(progress_text({"vda", 1000, 4000, 1s, false}, 3, 10) == "vda  [####");
}
