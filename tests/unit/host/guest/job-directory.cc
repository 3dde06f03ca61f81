// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/guest/job-directory.hh"

#include "common/clock.hh"
#include "common/errors.hh"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>

using namespace stillpoint;

namespace {

class Scratch {
 public:
  Scratch() : path_(std::filesystem::temp_directory_path() / ("t-" + random_id())) {
    std::filesystem::create_directory(path_);
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace

TEST_CASE("the directory is QEMU's, and goes with what lies in it") {
  const Scratch scratch;
  {
    const JobDirectory directory(scratch.path());
    struct stat found {};
    REQUIRE(::stat(directory.path().c_str(), &found) == 0);
    CHECK((found.st_mode & 07777) == 0700);
    std::ofstream(directory.path() / "vdb.scratch") << "nothing yet";
    directory.give_to(UserAndGroup{::geteuid() == 0 ? 4711U : ::geteuid(), ::getegid()},
                      {directory.path() / "vdb.scratch"});
    REQUIRE(::stat((directory.path() / "vdb.scratch").c_str(), &found) == 0);
    CHECK(found.st_uid == (::geteuid() == 0 ? 4711U : ::geteuid()));
    REQUIRE(::stat(directory.path().c_str(), &found) == 0);
    CHECK((found.st_mode & 07777) == 0711);
    CHECK(found.st_uid == (::geteuid() == 0 ? 4711U : ::geteuid()));
    std::ofstream(directory.path() / "vda.scratch") << "old content";
  }
  CHECK(std::filesystem::is_empty(scratch.path()));
}

TEST_CASE("only the directory of a companion that has died is abandoned") {
  const Scratch scratch;
  auto living = std::make_unique<JobDirectory>(scratch.path());
  CHECK(JobDirectory::abandoned(living->socket()).empty());
  // What SIGKILL leaves: the files without the lock.
  const std::filesystem::path dead = scratch.path() / "stillpoint-job-dead00";
  std::filesystem::create_directory(dead);
  std::ofstream(dead / "owner.lock") << "";
  CHECK(JobDirectory::abandoned(dead / "nbd.sock") == dead);
  std::filesystem::remove_all(dead);
  CHECK(JobDirectory::abandoned(dead / "nbd.sock") == dead);
  CHECK(JobDirectory::abandoned(dead / "other.sock").empty());
  CHECK(JobDirectory::abandoned(scratch.path() / "nbd.sock").empty());
  CHECK(JobDirectory::abandoned("").empty());
}

TEST_CASE("a scratch directory that cannot be used") {
  CHECK_THROWS_AS(JobDirectory("/nonexistent"), CaptureError);
  CHECK_THROWS_AS(JobDirectory("/" + std::string(100, 'x')), CaptureError);
}
