// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/file-name.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>

using namespace stillpoint;

namespace {

void check(const char* text, const char* still_point, const char* file_system, const char* path) {
  CAPTURE(text);
  const FileName name = parse_file_name(text);
  CHECK(name.still_point == still_point);
  CHECK(name.file_system == file_system);
  CHECK(name.path == path);
}

}  // namespace

TEST_CASE("a file's name is cut where its parts end") {
  check("web1", "web1", "", "");
  check("web1:/etc/hosts", "web1", "", "/etc/hosts");
  check("web1:vda1:/etc", "web1", "vda1", "/etc");
  check("web1@latest:/", "web1@latest", "", "/");
  check("web1@latest:vda:/a:/b", "web1@latest", "vda", "/a:/b");
  check("web1@2026-11-22T08:20:11Z", "web1@2026-11-22T08:20:11Z", "", "");
  check("web1@2026-11-22T08:20:11.5Z:/x@y", "web1@2026-11-22T08:20:11.5Z", "", "/x@y");
  check("web1@2026-11-22T08:20:11Z:vdb2:/x", "web1@2026-11-22T08:20:11Z", "vdb2", "/x");
  check("a:b@latest:/x", "a:b@latest", "", "/x");
  check("web1:vda2/@home:/x", "web1", "vda2/@home", "/x");
  check("web1@2026-11-22T08:20:11Z:vda2/@/var@:/x", "web1@2026-11-22T08:20:11Z", "vda2/@/var@", "/x");
}

TEST_CASE("what is no file's name is refused") {
  for (const char* bad : {"", ":/x", "web1:", "web1:vda1", "web1:etc/hosts", "web1:vda:1:/x"})
    CHECK_THROWS_AS(static_cast<void>(parse_file_name(bad)), UsageError);
}
