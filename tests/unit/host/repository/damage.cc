// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "host/repository/repository.hh"
#include "tests/unit/host/repository/support.hh"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <random>

using namespace stillpoint;
using namespace stillpoint::test;
namespace fs = std::filesystem;

TEST_CASE("the index comes back from the packs") {
  const Quiet quiet;
  const Sample sample;
  SUBCASE("missing") {
    fs::remove_all(sample.root() / "index");
  }
  SUBCASE("damaged") {
    flip(only_file(sample.root() / "index"), 200, std::byte{1});
  }
  SUBCASE("cut short") {
    fs::resize_file(only_file(sample.root() / "index"), 100);
  }
  SUBCASE("empty") {
    fs::resize_file(only_file(sample.root() / "index"), 0);
  }
  SUBCASE("of zeros, as a file system may leave it that lost its power") {
    write_zeros(only_file(sample.root() / "index"), 0);
  }
  SUBCASE("of zeros from its middle on") {
    const fs::path table = only_file(sample.root() / "index");
    write_zeros(table, fs::file_size(table) / 2);
  }
  SUBCASE("missing, and the pack's footer damaged") {
    fs::remove_all(sample.root() / "index");
    const fs::path pack = only_file(sample.root() / "packs");
    flip(pack, fs::file_size(pack) - 1, std::byte{1});
  }
  SUBCASE("missing, and the pack's end cut off") {
    fs::remove_all(sample.root() / "index");
    const fs::path pack = only_file(sample.root() / "packs");
    fs::resize_file(pack, fs::file_size(pack) - 40);
  }
  CHECK(sample.reads());
  // The next writer publishes it again, and finds everything there.
  Repository repository(sample.scratch.repository(), Repository::Mode::write);
  StoredCounts counts;
  static_cast<void>(write_stream(repository, sample.dump, &counts));
  CHECK(counts.new_chunks == 0);
  static_cast<void>(commit(repository, "web1", sample.manifest.disks[0].map, sample.manifest.dumps[0].map));
  CHECK(files_below(sample.root() / "index").size() == 1);
}

TEST_CASE("any flipped bit is noticed or does no harm") {
  const Quiet quiet;
  const Sample sample;
  REQUIRE(sample.reads());
  std::mt19937_64 random(4711);
  std::size_t noticed = 0;
  for (const fs::path& file : files_below(sample.root())) {
    CAPTURE(file.native());
    const std::uint64_t size = fs::file_size(file);
    for (std::uint64_t i = 0; i < 120; ++i) {
      // Both ends whole, and places in between.
      const std::uint64_t offset = i < 40 ? i : i < 80 ? size - 1 - (i - 40) : random() % size;
      if (offset >= size) continue;
      const std::byte mask{static_cast<unsigned char>(1U << (random() % 8))};
      flip(file, offset, mask);
      if (!sample.reads()) ++noticed;
      flip(file, offset, mask);
    }
  }
  CHECK(noticed > 100);
  CHECK(sample.reads());
}

TEST_CASE("objects cut short or missing are noticed") {
  const Quiet quiet;
  for (const char* directory : {"packs", "manifests", "index"}) {
    CAPTURE(directory);
    for (const std::uint64_t part : {0, 1, 2}) {
      const Sample sample;
      const fs::path file = only_file(sample.root() / directory);
      fs::resize_file(file, fs::file_size(file) * part / 3);
      CHECK(sample.reads() == (std::string_view(directory) == "index"));
    }
  }
  const Sample sample;
  fs::remove(only_file(sample.root() / "packs"));
  CHECK(!sample.reads());
}

TEST_CASE("an error names the chunk and the pack") {
  const Quiet quiet;
  const Sample sample;
  const fs::path pack = only_file(sample.root() / "packs");
  flip(pack, 64 + 56 + 100, std::byte{1});  // in the first record's bytes
  Repository repository(sample.scratch.repository(), Repository::Mode::read);
  try {
    static_cast<void>(read_whole(repository, sample.manifest.disks[0].map));
    static_cast<void>(read_stream(repository, sample.manifest.dumps[0].map));
    FAIL("read damaged bytes");
  } catch (const Corruption& e) {
    CHECK(std::string(e.what()).find(pack.filename().native()) != std::string::npos);
    CHECK(std::string(e.what()).find("chunk ") != std::string::npos);
  }
}

TEST_CASE("a map of another shape is refused") {
  const Sample sample;
  Repository repository(sample.scratch.repository(), Repository::Mode::read);
  DiskMap map = sample.manifest.disks[0].map;
  map.size = std::uint64_t{2000} * small_chunks;  // two levels, and the root is of level 1
  CHECK_THROWS_AS(static_cast<void>(read_whole(repository, map)), Corruption);
  map.size = small_chunks;
  CHECK_THROWS_AS(static_cast<void>(read_whole(repository, map)), Corruption);
  StreamMap stream = sample.manifest.dumps[0].map;
  stream.size -= 1;
  CHECK_THROWS_AS(static_cast<void>(read_stream(repository, stream)), Corruption);
  stream.root = sample.manifest.disks[0].map.root;
  CHECK_THROWS_AS(static_cast<void>(read_stream(repository, stream)), Corruption);
}

TEST_CASE("a full target stops the backup, and what was complete stays") {
  const Quiet quiet;
  const Sample sample;
  const fs::path small = sample.scratch.path() / "small";
  fs::create_directory(small);
  const bool mounted = ::mount("none", small.c_str(), "tmpfs", 0, "size=4m") == 0;
  if (!mounted) {
    MESSAGE("skipped: mounting needs privileges");
    return;
  }
  const std::string url = (small / "r").native();
  fs::copy(sample.root(), url, fs::copy_options::recursive);
  {
    Repository repository(url, Repository::Mode::write);
    const Bytes big = random_bytes(8 << 20, 5);
    CHECK_THROWS_AS(static_cast<void>(commit(repository, "web1", write_whole(repository, big))), StorageError);
    // Whoever goes on after the failure is stopped as well.
    CHECK_THROWS_AS(static_cast<void>(write_whole(repository, big)), StorageError);
    Manifest manifest;
    manifest = sample.manifest;
    CHECK_THROWS_AS(repository.commit(manifest), StorageError);
  }
  Repository repository(url, Repository::Mode::write);
  CHECK(repository.list().size() == 1);
  CHECK((read_whole(repository, repository.load("web1").disks[0].map) == sample.disk));
  static_cast<void>(commit(repository, "web2", write_whole(repository, sample.disk)));
  CHECK(::umount2(small.c_str(), MNT_DETACH) == 0);
}

TEST_CASE("a backup that is killed at any moment leaves nothing but spare bytes") {
  const Quiet quiet;
  const Sample sample;
  std::mt19937_64 random(99);
  for (unsigned round = 0; round < 12; ++round) {
    CAPTURE(round);
    const ::pid_t child = ::fork();
    if (child == 0) {
      try {
        Repository repository(sample.scratch.repository(), Repository::Mode::write);
        for (std::uint64_t i = 0;; ++i)
          static_cast<void>(
              commit(repository, "killed", write_whole(repository, random_bytes(3 << 20, round * 1000 + i))));
      } catch (...) {
      }
      ::_exit(1);
    }
    ::usleep(static_cast<::useconds_t>(random() % 150000));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
    REQUIRE(sample.reads());
    Repository repository(sample.scratch.repository(), Repository::Mode::write);
    for (const StillPointSummary& summary : repository.list("killed"))
      CHECK(read_whole(repository, repository.load(summary.name).disks.at(0).map).size() == 3 << 20);
    const Bytes disk = random_bytes(200000, round);
    const Manifest next = commit(repository, "next", write_whole(repository, disk));
    CHECK((read_whole(repository, repository.load(next.name).disks[0].map) == disk));
  }
}
