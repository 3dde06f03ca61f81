// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/restore/restore-disk.hh"

#include "common/errors.hh"
#include "host/capture/nbd-disk.hh"
#include "tests/unit/host/capture/scratch.hh"

#include <sys/stat.h>

using namespace stillpoint;
using namespace stillpoint::test;

namespace {

struct Progress : CaptureProgress {
  void advance(std::uint64_t now, std::uint64_t all) override {
    CHECK(now <= all);
    done = now;
    total = all;
  }
  std::uint64_t done = 0;
  std::uint64_t total = 0;
};

/// Fails in the middle.
class BadDisk : public BlockReader {
 public:
  [[nodiscard]] std::uint64_t size() const override { return 64 << 20; }
  void pread(std::span<std::byte>, std::uint64_t offset) override {
    if (offset > 40 << 20) throw Corruption("a chunk is damaged");
  }
};

std::uint64_t allocated(const std::filesystem::path& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

std::size_t files_in(const Scratch& scratch) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(scratch.path()), {}));
}

}  // namespace

TEST_CASE("a restored image equals the disk and is as sparse") {
  const Scratch scratch;
  make_sparse(scratch / "disk", 100 << 20,
              {{0, 1000}, {5 << 20, 12 << 20}, {50 << 20, 4096}, {(100 << 20) - 512, 512}});
  // Data that is zeros: allocated in the source, holes in the copy.
  write_at(scratch / "disk", 60 << 20, std::vector<std::byte>(10 << 20));
  NbdDisk disk = NbdDisk::image(scratch / "disk", "raw");
  Progress progress;
  SUBCASE("raw") {
    restore_disk(disk, scratch / "copy", "raw", false, progress);
    scratch.run("cmp disk copy");
    CHECK(allocated(scratch / "copy") <= 13 << 20);
  }
  SUBCASE("qcow2") {
    restore_disk(disk, scratch / "copy", "qcow2", false, progress);
    scratch.run("qemu-img check -q copy; qemu-img compare -f raw -F qcow2 disk copy");
    CHECK(allocated(scratch / "copy") <= 14 << 20);
  }
  CHECK(progress.done == progress.total);
  CHECK(progress.total >= 22 << 20);
  struct stat status {};
  REQUIRE(::stat((scratch / "copy").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777) == 0600);
}

TEST_CASE("an existing file is replaced only when asked to, and then keeps its mode") {
  const Scratch scratch;
  make_sparse(scratch / "disk", 1 << 20, {{0, 100000}});
  scratch.run("echo old > copy; chmod 640 copy");
  NbdDisk disk = NbdDisk::image(scratch / "disk", "raw");
  Progress progress;
  CHECK_THROWS_WITH_AS(restore_disk(disk, scratch / "copy", "raw", false, progress),
                       doctest::Contains("exists already"), UsageError);
  scratch.run("[ $(cat copy) = old ]");
  restore_disk(disk, scratch / "copy", "raw", true, progress);
  scratch.run("cmp disk copy; [ $(stat -c %a copy) = 640 ]");
}

TEST_CASE("a failed restore leaves nothing behind, and what it would have replaced as it was") {
  const Scratch scratch;
  scratch.run("echo old > copy");
  const std::size_t before = files_in(scratch);
  BadDisk disk;
  Progress progress;
  for (const char* format : {"raw", "qcow2"}) {
    CHECK_THROWS_AS(restore_disk(disk, scratch / "new", format, false, progress), Corruption);
    CHECK_THROWS_AS(restore_disk(disk, scratch / "copy", format, true, progress), Corruption);
  }
  CHECK(files_in(scratch) == before);
  scratch.run("[ $(cat copy) = old ]");
}

TEST_CASE("a target that cannot be is refused before anything is read") {
  const Scratch scratch;
  BadDisk disk;
  Progress progress;
  CHECK_THROWS_AS(restore_disk(disk, scratch / "new", "vmdk", false, progress), UsageError);
  CHECK_THROWS_AS(restore_disk(disk, (scratch / "no") / "new", "raw", false, progress), UsageError);
  CHECK_THROWS_AS(restore_disk(disk, scratch.path(), "raw", true, progress), UsageError);
}

TEST_CASE("a full target is said to be full") {
  if (::geteuid() != 0) return;
  const Scratch scratch;
  scratch.run("mkdir small; mount -t tmpfs -o size=4M none small 2>/dev/null || touch cannot-mount");
  if (std::filesystem::exists(scratch / "cannot-mount")) return;
  make_sparse(scratch / "disk", 16 << 20, {{0, 8 << 20}});
  NbdDisk disk = NbdDisk::image(scratch / "disk", "raw");
  Progress progress;
  for (const char* format : {"raw", "qcow2"}) {
    try {
      restore_disk(disk, (scratch / "small") / "copy", format, false, progress);
      FAIL("it fitted");
    } catch (const StorageError& error) {
      CHECK(error.hint().find("full") != std::string::npos);
    }
    CHECK(std::filesystem::is_empty(scratch / "small"));
  }
  scratch.run("umount small");
}

TEST_CASE("a block device is written whole, holes as zeros, and not while it is in use") {
  if (::geteuid() != 0) return;
  const Scratch scratch;
  scratch.run(
      "head -c 24M /dev/zero | tr '\\0' '\\377' >backing; losetup --find --show backing >device 2>/dev/null || rm "
      "device");
  if (!std::filesystem::exists(scratch / "device")) return;
  std::string device;
  std::getline(std::ifstream(scratch / "device") >> std::ws, device);
  struct Detach {
    const Scratch& scratch;
    ~Detach() { scratch.run("umount $(cat device) 2>/dev/null || :; losetup -d $(cat device)"); }
  } const detach{scratch};
  make_sparse(scratch / "disk", 20 << 20, {{100, 5000}, {7 << 20, 3 << 20}, {(20 << 20) - 512, 512}});
  NbdDisk disk = NbdDisk::image(scratch / "disk", "raw");
  Progress progress;
  CHECK_THROWS_WITH_AS(restore_disk(disk, device, "raw", false, progress), doctest::Contains("would be lost"),
                       UsageError);
  restore_disk(disk, device, "raw", true, progress);
  scratch.run("cmp -n $((20 << 20)) disk backing; [ $(tail -c 4M backing | tr -d '\\377' | wc -c) = 0 ]");

  CHECK_THROWS_AS(restore_disk(disk, device, "qcow2", true, progress), UsageError);
  make_sparse(scratch / "larger", 25 << 20, {});
  NbdDisk larger = NbdDisk::image(scratch / "larger", "raw");
  CHECK_THROWS_WITH_AS(restore_disk(larger, device, "raw", true, progress), doctest::Contains("the disk has"),
                       UsageError);
  scratch.run("mke2fs -q $(cat device); mkdir mount; mount $(cat device) mount");
  CHECK_THROWS_WITH_AS(restore_disk(disk, device, "raw", true, progress), doctest::Contains("in use"), UsageError);
}
