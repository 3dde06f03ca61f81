// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/raw-image.hh"

#include "common/errors.hh"
#include "tests/unit/host/capture/scratch.hh"

#include <sys/stat.h>
#include <unistd.h>

using namespace stillpoint;
using namespace stillpoint::test;

TEST_CASE("a raw image is read as it is, whatever its length, and tells its holes") {
  const Scratch scratch;
  make_sparse(scratch / "disk", (20 << 20) + 777, {{0, 100000}, {8 << 20, 4096}, {(20 << 20) + 700, 77}});
  RawImage image(scratch / "disk");
  REQUIRE(image.size() == (20 << 20) + 777);

  std::uint64_t data = 0;
  std::uint64_t at = 0;
  for (const Extent& extent : image.extents(0, image.size())) {
    CHECK(extent.offset == at);
    at += extent.length;
    data += extent.data ? extent.length : 0;
  }
  CHECK(at == image.size());
  CHECK(data >= 100000 + 4096 + 77);
  CHECK(data < 1 << 20);
  CHECK(image.extents(8 << 20, 4096) == std::vector<Extent>{{8 << 20, 4096, true}});
  CHECK(image.extents(10 << 20, 1 << 20) == std::vector<Extent>{{10 << 20, 1 << 20, false}});
  CHECK(image.extents(image.size(), 0).empty());

  std::vector<std::byte> copy(image.size());
  for (std::uint64_t tag = 0; tag < 21; ++tag) {
    const std::uint64_t offset = tag << 20;
    image.start_read(std::span(copy).subspan(offset, std::min<std::uint64_t>(1 << 20, copy.size() - offset)), offset,
                     tag);
  }
  CHECK(image.reads_in_flight() == 21);
  CHECK(!image.next_read(std::chrono::milliseconds(0)));
  std::uint64_t tags = 0;
  while (const auto tag = image.next_read(std::chrono::milliseconds(1)))
    tags += *tag + 1;
  CHECK(tags == 21 * 22 / 2);
  std::ofstream(scratch / "copy", std::ios::binary).write(reinterpret_cast<const char*>(copy.data()), copy.size());
  scratch.run("cmp disk copy");

  std::array<std::byte, 16> few{};
  CHECK_THROWS_AS(image.pread(few, image.size() - 15), CaptureError);
  CHECK_THROWS_AS(image.start_read(few, ~std::uint64_t{0}, 1), CaptureError);
  scratch.run("truncate -s 1M disk");
  CHECK_THROWS_AS(image.pread(few, 2 << 20), CaptureError);
}

TEST_CASE("what is no image is refused") {
  const Scratch scratch;
  scratch.run("mkfifo pipe");
  CHECK_THROWS_AS(RawImage(scratch / "none"), UsageError);
  CHECK_THROWS_AS(RawImage(scratch / "pipe"), UsageError);
  CHECK_THROWS_AS(RawImage(scratch.path()), UsageError);
}

TEST_CASE("an image that QEMU writes to is refused while it does") {
  const Scratch scratch;
  make_sparse(scratch / "disk", 1 << 20, {{0, 4096}});
  {
    const Program writer({"qemu-nbd", "-f", "raw", "-t", "-k", scratch / "socket", scratch / "disk"});
    // It listens before it opens the image.
    bool locked = false;
    for (int i = 0; i < 1000 && !locked; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      std::ifstream locks("/proc/locks");
      const std::string text{std::istreambuf_iterator<char>(locks), {}};
      struct stat status {};
      REQUIRE(::stat((scratch / "disk").c_str(), &status) == 0);
      locked = text.find(fmt::format(":{} 100 101", status.st_ino)) != std::string::npos;
    }
    CHECK_THROWS_WITH_AS(RawImage(scratch / "disk"), doctest::Contains("in use by a guest"), CaptureError);
  }
  CHECK(RawImage(scratch / "disk").size() == 1 << 20);
  // Others who only read it do no harm.
  const Program reader({"qemu-nbd", "-r", "-f", "raw", "-t", "-k", scratch / "other", scratch / "disk"});
  wait_for_server(scratch / "other");
  CHECK(RawImage(scratch / "disk").size() == 1 << 20);
}

TEST_CASE("a block device is read whole") {
  if (::geteuid() != 0) return;
  const Scratch scratch;
  make_sparse(scratch / "disk", 4 << 20, {{0, 4096}, {3 << 20, 5000}});
  scratch.run("losetup --find --show --read-only disk >device 2>/dev/null || rm device");
  std::string device;
  if (!(std::ifstream(scratch / "device") >> device)) return;
  {
    RawImage image(device);
    CHECK(image.size() == 4 << 20);
    CHECK(image.extents(0, image.size()) == std::vector<Extent>{{0, 4 << 20, true}});
    std::vector<std::byte> copy(image.size());
    image.pread(copy, 0);
    std::ofstream(scratch / "copy", std::ios::binary).write(reinterpret_cast<const char*>(copy.data()), copy.size());
  }
  scratch.run("losetup -d $(cat device); cmp disk copy");
}
