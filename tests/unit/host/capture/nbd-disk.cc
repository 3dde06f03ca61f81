// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/nbd-disk.hh"

#include "common/errors.hh"
#include "tests/unit/host/capture/scratch.hh"

#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

using namespace stillpoint;
using namespace stillpoint::test;
using namespace std::chrono_literals;

namespace {

std::vector<std::byte> read(BlockReader& disk, std::uint64_t offset, std::size_t length) {
  std::vector<std::byte> bytes(length);
  disk.pread(bytes, offset);
  return bytes;
}

std::vector<std::byte> part(const std::vector<std::byte>& all, std::size_t offset, std::size_t length) {
  const auto begin = all.begin() + static_cast<std::ptrdiff_t>(offset);
  return {begin, begin + static_cast<std::ptrdiff_t>(length)};
}

}  // namespace

TEST_CASE("an image is read at any place and length") {
  const Scratch scratch;
  make_sparse(scratch / "disk", 3 << 20, {{0, 100000}, {1 << 20, 300000}});
  const auto expected = read_whole(scratch / "disk");
  NbdDisk disk = NbdDisk::image(scratch / "disk", "raw");
  CHECK(disk.size() == 3 << 20);
  CHECK_FALSE(disk.has_dirty_bitmap());
  CHECK(read(disk, 0, 3 << 20) == expected);
  CHECK(read(disk, 1, 1) == part(expected, 1, 1));
  CHECK(read(disk, 99999, 7777) == part(expected, 99999, 7777));

  std::vector<std::vector<std::byte>> buffers;
  std::vector<BlockReader::Request> requests;
  for (std::size_t i = 0; i < 500; ++i)
    buffers.emplace_back(1000 + i);
  for (std::size_t i = 0; i < buffers.size(); ++i)
    requests.push_back({i * 5003, buffers[i]});
  disk.pread_many(requests);
  for (std::size_t i = 0; i < buffers.size(); ++i)
    REQUIRE(buffers[i] == part(expected, i * 5003, buffers[i].size()));

  std::vector<std::byte> buffer(10);
  CHECK_THROWS_AS(disk.pread(buffer, (3 << 20) - 9), CaptureError);
  CHECK_THROWS_AS(disk.pread(buffer, UINT64_MAX - 4), CaptureError);
}

TEST_CASE("extents tell data from holes") {
  const Scratch scratch;
  make_sparse(scratch / "disk", 4 << 20, {{1 << 20, 65536}});
  NbdDisk disk = NbdDisk::image(scratch / "disk", "raw");
  const std::vector<Extent> all = disk.extents(0, 4 << 20);
  CHECK(all == std::vector<Extent>{
                   {0, 1 << 20, false}, {1 << 20, 65536, true}, {(1 << 20) + 65536, (3 << 20) - 65536, false}});
  CHECK(disk.extents((1 << 20) + 100, 200) == std::vector<Extent>{{(1 << 20) + 100, 200, true}});
  CHECK(disk.extents(5, 0).empty());
}

TEST_CASE("a size that is no multiple of a block is rounded up with zeros") {
  const Scratch scratch;
  write_at(scratch / "disk", 0, random_bytes(100001, 7));
  auto expected = read_whole(scratch / "disk");
  NbdDisk disk = NbdDisk::image(scratch / "disk", "raw");
  expected.resize(disk.size());
  CHECK(disk.size() == 100352);
  CHECK(read(disk, 0, expected.size()) == expected);
}

TEST_CASE("a server with large blocks is read on their boundaries") {
  const Scratch scratch;
  write_at(scratch / "disk", 0, random_bytes(1 << 20, 3));
  const auto expected = read_whole(scratch / "disk");
  const Program server(
      {"qemu-nbd", "--read-only", "--persistent", "-k", (scratch / "socket").native(), "--image-opts",
       "driver=raw,file.driver=blkdebug,file.align=4096,file.max-transfer=65536,file.image.driver=file,"
       "file.image.filename=" +
           (scratch / "disk").native()});
  wait_for_server(scratch / "socket");
  NbdDisk disk(scratch / "socket", "");
  CHECK(read(disk, 0, 1 << 20) == expected);
  CHECK(read(disk, 4095, 2) == part(expected, 4095, 2));
  CHECK(read(disk, 700001, 300000) == part(expected, 700001, 300000));
  CHECK(disk.extents(100, 50) == std::vector<Extent>{{100, 50, true}});
}

TEST_CASE("the dirty bitmap is read as its own extents") {
  const Scratch scratch;
  scratch.run(
      "qemu-img create -q -f qcow2 disk 8M\n"
      "qemu-io -f qcow2 -c 'write -P 1 0 1M' disk\n"
      "qemu-img bitmap --add -g 65536 disk b0\n"
      "qemu-io -f qcow2 -c 'write -P 2 2M 64k' -c 'write -P 3 4M 1' disk\n");
  const Program server({"qemu-nbd", "--read-only", "--persistent", "-f", "qcow2", "-B", "b0", "--shared=2", "-k",
                        (scratch / "socket").native(), (scratch / "disk").native()});
  wait_for_server(scratch / "socket");
  NbdDisk disk(scratch / "socket", "", "qemu:dirty-bitmap:b0");
  REQUIRE(disk.has_dirty_bitmap());
  CHECK(disk.dirty_extents(0, 8 << 20) == std::vector<Extent>{{0, 2 << 20, false},
                                                              {2 << 20, 65536, true},
                                                              {(2 << 20) + 65536, (2 << 20) - 65536, false},
                                                              {4 << 20, 65536, true},
                                                              {(4 << 20) + 65536, (4 << 20) - 65536, false}});
  CHECK(disk.extents(0, 1 << 20) == std::vector<Extent>{{0, 1 << 20, true}});
  NbdDisk without(scratch / "socket", "", "qemu:dirty-bitmap:other");
  CHECK_FALSE(without.has_dirty_bitmap());
  CHECK_THROWS_AS(static_cast<void>(without.dirty_extents(0, 512)), CaptureError);
}

TEST_CASE("what cannot be opened is said in one line") {
  const Scratch scratch;
  CHECK_THROWS_AS(NbdDisk::image(scratch / "none", "raw"), UsageError);
  write_at(scratch / "disk", 0, random_bytes(65536, 1));
  CHECK_THROWS_AS(NbdDisk::image(scratch / "disk", "no such"), UsageError);
  CHECK_THROWS_AS(NbdDisk::image(scratch / "disk", ""), UsageError);
  CHECK_THROWS_WITH_AS(NbdDisk::image(scratch / "disk", "qcow2"), doctest::Contains("not in qcow2 format"),
                       CaptureError);
  CHECK_THROWS_AS(NbdDisk(scratch / "no-socket", "x"), CaptureError);

  SUBCASE("an image that somebody writes to") {
    scratch.run("qemu-img create -q -f qcow2 image 1M");
    const Program writer(
        {"qemu-nbd", "--persistent", "-f", "qcow2", "-k", (scratch / "writer").native(), (scratch / "image").native()});
    wait_for_server(scratch / "writer");
    try {
      NbdDisk::image(scratch / "image", "qcow2");
      FAIL("opened");
    } catch (const CaptureError& error) {
      CHECK(std::string(error.what()).find("lock") != std::string::npos);
      CHECK(error.hint().find("running guest") != std::string::npos);
    }
  }
  SUBCASE("a path that looks like a protocol") {
    const auto before = std::filesystem::current_path();
    std::filesystem::current_path(scratch.path());
    write_at("nbd:evil", 0, random_bytes(512, 1));
    CHECK(NbdDisk::image("nbd:evil", "raw").size() == 512);
    write_at("--help", 0, random_bytes(1024, 1));
    CHECK(NbdDisk::image("--help", "raw").size() == 1024);
    std::filesystem::current_path(before);
  }
}

TEST_CASE("a failed read ends the disk") {
  const Scratch scratch;
  write_at(scratch / "disk", 0, random_bytes(1 << 20, 3));
  const Program server(
      {"qemu-nbd", "--read-only", "--persistent", "-k", (scratch / "socket").native(), "--image-opts",
       "driver=raw,file.driver=blkdebug,file.inject-error.0.event=none,file.inject-error.0.sector=1000,"
       "file.inject-error.0.errno=5,file.image.driver=file,file.image.filename=" +
           (scratch / "disk").native()});
  wait_for_server(scratch / "socket");
  NbdDisk disk(scratch / "socket", "");
  CHECK_NOTHROW(read(disk, 0, 4096));
  CHECK_THROWS_WITH_AS(read(disk, 512000, 4096), doctest::Contains("cannot read 4096 bytes at 512000"), CaptureError);
  CHECK_THROWS_AS(read(disk, 0, 4096), CaptureError);
}

TEST_CASE("a server that stops answering is given up") {
  const Scratch scratch;
  write_at(scratch / "disk", 0, random_bytes(1 << 20, 3));
  SUBCASE("after the handshake") {
    const Program server({"qemu-nbd", "--read-only", "--persistent", "-f", "raw", "-k", (scratch / "socket").native(),
                          (scratch / "disk").native()});
    wait_for_server(scratch / "socket");
    NbdDisk disk(scratch / "socket", "", {}, 300ms);
    std::this_thread::sleep_for(400ms);  // silence while nothing is asked is no fault
    CHECK_NOTHROW(read(disk, 0, 4096));
    server.signal(SIGSTOP);
    CHECK_THROWS_WITH_AS(read(disk, 0, 4096), doctest::Contains("no answer for 0.3 s"), CaptureError);
    CHECK_THROWS_AS(static_cast<void>(disk.extents(0, 4096)), CaptureError);
  }
  SUBCASE("before it") {
    const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (scratch / "socket").c_str(), sizeof address.sun_path - 1);
    REQUIRE(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(listener, 1) == 0);
    CHECK_THROWS_WITH_AS(NbdDisk(scratch / "socket", "x", {}, 200ms), doctest::Contains("no answer"), CaptureError);
    ::close(listener);
  }
  SUBCASE("because it died") {
    const Program server({"qemu-nbd", "--read-only", "--persistent", "-f", "raw", "-k", (scratch / "socket").native(),
                          (scratch / "disk").native()});
    wait_for_server(scratch / "socket");
    NbdDisk disk(scratch / "socket", "");
    server.signal(SIGKILL);
    CHECK_THROWS_AS(read(disk, 0, 4096), CaptureError);
  }
}
