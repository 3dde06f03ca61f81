// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/commands/output-file.hh"

#include "common/errors.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <iterator>

using namespace stillpoint;
namespace fs = std::filesystem;

namespace {

struct Scratch {
  Scratch() { fs::create_directory(path); }
  ~Scratch() { fs::remove_all(path); }
  [[nodiscard]] std::ptrdiff_t files() const { return std::distance(fs::directory_iterator(path), {}); }
  fs::path path = fs::temp_directory_path() / fmt::format("stillpoint-output-{}", ::getpid());
};

}  // namespace

TEST_CASE("a file has its name only when it is whole") {
  const Scratch scratch;
  const fs::path target = scratch.path / "dump.sql";
  {
    OutputFile file(target, false);
    file.write(as_bytes("half"));
    CHECK(!fs::exists(target));
  }
  CHECK(scratch.files() == 0);
  OutputFile file(target, false);
  file.write(as_bytes("whole"));
  file.commit();
  CHECK(read_text(target, 100) == "whole");
  CHECK(scratch.files() == 1);
}

TEST_CASE("nothing is replaced unless asked, and never what is no file") {
  const Scratch scratch;
  const fs::path target = scratch.path / "dump.sql";
  replace_file(target, "old");
  CHECK_THROWS_AS(OutputFile(target, false), UsageError);
  CHECK_THROWS_AS(OutputFile(scratch.path, true), UsageError);
  CHECK_THROWS_AS(OutputFile("/dev/null", true), UsageError);
  {
    OutputFile file(target, true);
    file.write(as_bytes("new"));
    CHECK(read_text(target, 100) == "old");
    file.commit();
  }
  CHECK(read_text(target, 100) == "new");
  fs::remove(target);
  OutputFile late(target, false);
  replace_file(target, "somebody else's");
  CHECK_THROWS_AS(late.commit(), UsageError);
  CHECK(read_text(target, 100) == "somebody else's");
}
