// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/capture/disk-capture.hh"

#include "common/errors.hh"
#include "tests/unit/host/capture/collecting-sink.hh"
#include "tests/unit/host/capture/scratch.hh"

#include <map>
#include <stop_token>

using namespace stillpoint;
using namespace stillpoint::test;

namespace {

constexpr std::uint32_t chunk = 256 << 10;

/// A disk in memory with extents and a bitmap as told, that completes its reads in reverse order.
class MemoryDisk : public QueuedReader {
 public:
  explicit MemoryDisk(std::uint64_t size) : bytes(size) {}

  [[nodiscard]] std::uint64_t size() const override { return bytes.size(); }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override {
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), buffer.size(), buffer.begin());
  }
  [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) override {
    return cut(allocated, offset, length);
  }
  [[nodiscard]] bool has_dirty_bitmap() const override { return true; }
  [[nodiscard]] std::vector<Extent> dirty_extents(std::uint64_t offset, std::uint64_t length) override {
    return cut(dirty, offset, length);
  }
  void start_read(std::span<std::byte> buffer, std::uint64_t offset, std::uint64_t tag) override {
    REQUIRE(offset + buffer.size() <= bytes.size());
    read_bytes += buffer.size();
    queue_.push_back({buffer, offset, tag});
    most_in_flight = std::max(most_in_flight, queue_.size());
  }
  [[nodiscard]] std::optional<std::uint64_t> next_read(std::chrono::milliseconds patience) override {
    if (queue_.empty() || patience.count() == 0) return std::nullopt;
    const Read read = queue_.back();
    queue_.pop_back();
    pread(read.buffer, read.offset);
    return read.tag;
  }
  [[nodiscard]] std::size_t reads_in_flight() const override { return queue_.size(); }
  void abandon() noexcept override { queue_.clear(); }

  std::vector<std::byte> bytes;
  std::map<std::uint64_t, bool> allocated = {{0, false}};  ///< from this offset on
  std::map<std::uint64_t, bool> dirty = {{0, false}};
  std::uint64_t read_bytes = 0;
  std::size_t most_in_flight = 0;
  std::size_t most_extents = 3;  ///< in an answer, which is then cut short

 private:
  struct Read {
    std::span<std::byte> buffer;
    std::uint64_t offset;
    std::uint64_t tag;
  };
  [[nodiscard]] std::vector<Extent> cut(const std::map<std::uint64_t, bool>& map, std::uint64_t offset,
                                        std::uint64_t length) const {
    std::vector<Extent> result;
    for (std::uint64_t at = offset; at < offset + length && result.size() < most_extents;) {
      const auto next = map.upper_bound(at);
      const std::uint64_t end = std::min(offset + length, next == map.end() ? bytes.size() : next->first);
      result.push_back({at, end - at, std::prev(next)->second});
      at = end;
    }
    return result;
  }
  std::vector<Read> queue_;
};

}  // namespace

TEST_CASE("a qcow2 image with holes is captured as it is") {
  const Scratch scratch;
  scratch.run(
      "qemu-img create -q -f qcow2 disk 20001k\n"
      "qemu-io -f qcow2 -c 'write -P 1 0 1M' -c 'write -P 2 5000k 3k' -c 'write -P 3 9M 4M' -c 'write -P 4 20000k 1k' "
      "disk\n"
      "qemu-io -f qcow2 -c 'write -z 10M 1M' disk\n"
      "qemu-img convert -f qcow2 -O raw disk raw\n");
  const auto expected = read_whole(scratch / "raw");
  NbdDisk disk = NbdDisk::image(scratch / "disk", "qcow2");
  REQUIRE(disk.size() == expected.size());
  for (const std::size_t buffers : {1U, 3U, 40U}) {
    CollectingSink sink(disk.size(), chunk, buffers);
    CountingProgress progress;
    const CaptureCounts counts = capture_disk(disk, false, sink, progress, {});
    std::vector<std::byte> captured(disk.size(), std::byte{0xcc});
    sink.apply(captured);
    CHECK(captured == expected);
    CHECK(sink.chunks.size() + sink.zeros.size() == (disk.size() + chunk - 1) / chunk);
    CHECK(counts.read == progress.done);
    CHECK(progress.done == progress.total);
    CHECK(counts.read < 6 << 20);
    CHECK(counts.changed < 6 << 20);
    CHECK(sink.buffers_free() == buffers);
  }
}

TEST_CASE("an incremental capture reads the chunks that the bitmap touches") {
  const Scratch scratch;
  scratch.run(
      "qemu-img create -q -f qcow2 disk 64M\n"
      "qemu-io -f qcow2 -c 'write -P 1 0 32M' disk\n"
      "qemu-img convert -f qcow2 -O raw disk before\n"
      "qemu-img bitmap --add -g 65536 disk b0\n"
      "qemu-io -f qcow2 -c 'write -P 2 1M 64k' -c 'write -P 3 17000k 600k' -c 'write -P 4 60M 1k' disk\n"
      "qemu-io -f qcow2 -d unmap -c 'discard 8M 2M' -c 'write -z -u 20M 256k' disk\n"
      "qemu-img convert -f qcow2 -O raw disk after\n");
  const Program server({"qemu-nbd", "--read-only", "--persistent", "-f", "qcow2", "-B", "b0", "-k",
                        (scratch / "socket").native(), (scratch / "disk").native()});
  wait_for_server(scratch / "socket");
  NbdDisk disk(scratch / "socket", "", "qemu:dirty-bitmap:b0");
  CollectingSink sink(disk.size(), chunk, 8);
  CountingProgress progress;
  const CaptureCounts counts = capture_disk(disk, true, sink, progress, {});
  auto image = read_whole(scratch / "before");
  sink.apply(image);
  CHECK(image == read_whole(scratch / "after"));
  CHECK(sink.zeros.size() == 9);
  CHECK(sink.chunks.size() == 5);
  CHECK(counts.read <= 5 * chunk);
  CHECK(counts.changed == (64 + 640 + 64 + 2048 + 256) * 1024);
}

TEST_CASE("random extents and bitmaps are captured exactly") {
  std::mt19937 random(42);
  std::size_t parts = 0;
  for (int round = 0; round < 150; ++round) {
    // Some with chunks of which a part may be taken.
    const unsigned scale = round % 3 == 0 ? 16 : 1;
    const std::uint32_t chunk_size = (4096U * scale) << (random() % 4);
    MemoryDisk disk(1 + random() % 200000 * scale);
    disk.most_extents = 1 + random() % 5;
    std::vector<std::byte> before = random_bytes(disk.size(), random());
    disk.bytes = before;
    bool data = random() % 2 == 0;
    for (std::uint64_t at = 0; at < disk.size(); at += 1 + random() % 20000 * scale, data = !data)
      disk.allocated[at] = data;
    bool changed = random() % 2 == 0;
    for (std::uint64_t at = 0; at < disk.size(); at += 1 + random() % (random() % 2 == 0 ? 3000 : 60000) * scale) {
      disk.dirty[at] = changed;
      changed = !changed;
    }
    const auto is = [](const std::map<std::uint64_t, bool>& map, std::uint64_t at) {
      return std::prev(map.upper_bound(at))->second;
    };
    std::uint64_t allocated = 0;
    for (std::uint64_t at = 0; at < disk.size(); ++at) {
      if (is(disk.allocated, at))
        ++allocated;
      else
        disk.bytes[at] = std::byte{0};
    }
    const bool incremental = random() % 2 == 0;
    CollectingSink sink(disk.size(), chunk_size, 1 + random() % 20);
    sink.take_parts = random() % 4 != 0;
    CountingProgress progress;
    const CaptureCounts counts = capture_disk(disk, incremental, sink, progress, {});
    std::vector<std::byte> image = before;
    sink.apply(image);
    if (incremental) {
      for (std::uint64_t begin = 0; begin < disk.size(); begin += chunk_size) {
        const std::uint64_t end = std::min<std::uint64_t>(begin + chunk_size, disk.size());
        std::uint64_t touched = 0;
        bool right = true;
        const auto number = begin / chunk_size;
        const auto part = sink.parts.find(number);
        for (std::uint64_t at = begin; at < end; ++at) {
          const bool dirty = is(disk.dirty, at);
          if (dirty) touched |= std::uint64_t{1} << ((at - begin) / part_block_bytes);
          if (dirty || part == sink.parts.end()) right = right && image[at] == disk.bytes[at];
        }
        REQUIRE(sink.chunks.count(number) + sink.zeros.count(number) + sink.parts.count(number) ==
                (touched != 0 ? 1U : 0U));
        REQUIRE((right || touched == 0));
        // No other block is read than those that are dirty, and those that the sink has asked for.
        if (part != sink.parts.end()) {
          REQUIRE(part->second.first == (touched | sink.patched(number)));
          parts += 1;
        }
      }
    } else {
      REQUIRE(image == disk.bytes);
      REQUIRE(counts.changed == allocated);
    }
    REQUIRE(counts.read == disk.read_bytes);
    REQUIRE(progress.done == progress.total);
  }
  CHECK(parts > 15);
}

TEST_CASE("a capture ends when it is stopped or the sink fails, and the sink has its buffers back") {
  MemoryDisk disk(64 << 20);
  disk.allocated[0] = true;
  CountingProgress progress;
  SUBCASE("stopped") {
    std::stop_source source;
    source.request_stop();
    CollectingSink sink(disk.size(), chunk, 8);
    CHECK_THROWS_AS(static_cast<void>(capture_disk(disk, false, sink, progress, source.get_token())), Interrupted);
    CHECK(sink.buffers_free() == 8);
  }
  SUBCASE("the sink fails") {
    CollectingSink sink(disk.size(), chunk, 8);
    sink.submits_until_failure = 20;
    CHECK_THROWS_WITH(static_cast<void>(capture_disk(disk, false, sink, progress, {})), "the sink is full");
    CHECK(sink.buffers_free() == 8);
  }
  SUBCASE("neither") {
    CollectingSink sink(disk.size(), chunk, 8);
    CHECK(capture_disk(disk, false, sink, progress, {}).read == 64 << 20);
    CHECK(disk.most_in_flight == 8);
  }
  CHECK(disk.reads_in_flight() == 0);
}
