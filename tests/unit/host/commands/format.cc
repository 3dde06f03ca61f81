// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/format.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

using namespace stillpoint;
using namespace std::chrono_literals;

TEST_CASE("sizes keep three digits and never round into the next unit") {
  CHECK(format_size(0) == "0 B");
  CHECK(format_size(999) == "999 B");
  CHECK(format_size(1000) == "1.0 kB");
  CHECK(format_size(21'500'000) == "21.5 MB");
  CHECK(format_size(99'960'000) == "100 MB");
  CHECK(format_size(999'499'999) == "999 MB");
  CHECK(format_size(999'500'000) == "1.0 GB");
  CHECK(format_size(UINT64_MAX) == "18.4 EB");
}

TEST_CASE("durations are read at a glance") {
  CHECK(format_duration(200us) == "0.2 ms");
  CHECK(format_duration(350ms) == "350 ms");
  CHECK(format_duration(999600us) == "1.0 s");
  CHECK(format_duration(4500ms) == "4.5 s");
  CHECK(format_duration(125s) == "2 min 5 s");
  CHECK(format_duration(3720s) == "1 h 2 min");
  CHECK(format_duration(-1s) == "0.0 ms");
}

TEST_CASE("sizes on the command line") {
  CHECK(parse_duration("500ms").count() == 500);
  CHECK(parse_duration("2s").count() == 2000);
  CHECK(parse_duration("1min").count() == 60000);
  for (const char* wrong : {"", "2", "s", "-1s", "2 s", "99999999999s"})
    CHECK_THROWS_AS(static_cast<void>(parse_duration(wrong)), UsageError);
  CHECK(parse_size("262144") == 262144);
  CHECK(parse_size("256K") == 262144);
  CHECK(parse_size("4MiB") == 4194304);
  for (const char* bad : {"", "K", "-1", "1.5M", "256 K", "256kb", "99999999999999999999", "17179869184G"})
    CHECK_THROWS_AS(static_cast<void>(parse_size(bad)), UsageError);
}

TEST_CASE("what a guest wrote cannot steer the terminal") {
  CHECK(printable("web1 é 木") == "web1 é 木");
  CHECK(printable("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\x0ac");
  CHECK(printable("\xff\xc3") == "\\xff\\xc3");
  CHECK(printable("\xe2\x80\xae"
                  "txt.exe") == "\\xe2\\x80\\xaetxt.exe");
  CHECK(printable(std::string_view("a\0b", 3)) == "a\\x00b");
}

TEST_CASE("widths count code points") {
  CHECK(display_width("é木x") == 3);
  CHECK(cut_to_width("é木x", 2) == "é木");
  CHECK(cut_to_width("abc", 9) == "abc");
}
