// SPDX-License-Identifier: LGPL-2.1-or-later
#include "tests/unit/host/repository/support.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <random>

namespace stillpoint::test {

namespace fs = std::filesystem;

namespace {

fs::path place(Scratch::On on) {
  const fs::path memory = "/dev/shm";
  return on == Scratch::On::memory && fs::is_directory(memory) ? memory : fs::temp_directory_path();
}

}  // namespace

Scratch::Scratch() : Scratch(On::disk) {}

Scratch::Scratch(On on) : path_(place(on) / ("stillpoint-test-" + random_id())) {
  fs::create_directories(path_);
}

Scratch::~Scratch() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

bool repositories_are_directories() {
  return std::getenv("STILLPOINT_TEST_STORE") == nullptr;
}

std::string Scratch::repository() const {
  if (repositories_are_directories()) return (path_ / "repository").native();
  std::string url = std::getenv("STILLPOINT_TEST_STORE");
  return url.insert(std::min(url.find('?'), url.size()), "/" + path_.filename().native());
}

Bytes random_bytes(std::size_t length, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(length);
  for (std::size_t i = 0; i < length; i += 8) {
    const std::uint64_t value = random();
    std::memcpy(bytes.data() + i, &value, std::min<std::size_t>(8, length - i));
  }
  return bytes;
}

Bytes text_bytes(std::size_t length, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string text;
  text.reserve(length + 100);
  while (text.size() < length)
    text += fmt::format("{}\tcustomer {}\tcity {}\t{}\n", text.size(), random() % 100000, random() % 100, random());
  text.resize(length);
  Bytes bytes(length);
  std::memcpy(bytes.data(), text.data(), length);
  return bytes;
}

namespace {

void submit_chunk(DiskWriter& writer, std::span<const std::byte> disk, std::uint64_t number) {
  ChunkBuffer buffer = writer.acquire(number);
  const std::span<const std::byte> from = disk.subspan(number * writer.chunk_size());
  REQUIRE(buffer.bytes().size() == std::min<std::size_t>(writer.chunk_size(), from.size()));
  std::memcpy(buffer.bytes().data(), from.data(), buffer.bytes().size());
  writer.submit(number, std::move(buffer));
}

}  // namespace

DiskMap write_whole(Repository& repository, std::span<const std::byte> disk, StoredCounts* counts) {
  const std::unique_ptr<DiskWriter> writer = repository.write_disk(disk.size(), std::nullopt);
  const std::uint64_t chunks = (disk.size() + writer->chunk_size() - 1) / writer->chunk_size();
  for (std::uint64_t number = 0; number < chunks; ++number)
    submit_chunk(*writer, disk, number);
  const DiskMap map = writer->finish();
  if (counts != nullptr) *counts = writer->counts();
  return map;
}

DiskMap write_chunks(Repository& repository, std::span<const std::byte> disk, const DiskMap& base,
                     const std::vector<std::uint64_t>& numbers, StoredCounts* counts) {
  const std::unique_ptr<DiskWriter> writer = repository.write_disk(disk.size(), base);
  for (const std::uint64_t number : numbers)
    submit_chunk(*writer, disk, number);
  const DiskMap map = writer->finish();
  if (counts != nullptr) *counts = writer->counts();
  return map;
}

Bytes read_whole(Repository& repository, const DiskMap& map) {
  const std::unique_ptr<BlockReader> reader = repository.open_disk(map);
  REQUIRE(reader->size() == map.size);
  Bytes bytes(map.size, std::byte{0xee});
  if (!bytes.empty()) reader->pread(bytes, 0);
  return bytes;
}

StreamMap write_stream(Repository& repository, std::span<const std::byte> bytes, StoredCounts* counts,
                       const std::optional<StreamMap>& base) {
  const std::unique_ptr<DumpWriter> writer = repository.write_dump(base);
  std::size_t step = 1;
  while (!bytes.empty()) {
    const std::size_t length = std::min(step, bytes.size());
    writer->write(bytes.first(length));
    bytes = bytes.subspan(length);
    step = step * 3 % 200003;
  }
  const StreamMap map = writer->finish();
  if (counts != nullptr) *counts = writer->counts();
  return map;
}

Bytes read_stream(Repository& repository, const StreamMap& map) {
  Bytes bytes;
  repository.read_dump(map,
                       [&](std::span<const std::byte> part) { bytes.insert(bytes.end(), part.begin(), part.end()); });
  return bytes;
}

Manifest commit(Repository& repository, std::string_view domain, const DiskMap& disk,
                const std::optional<StreamMap>& dump, std::string_view time) {
  Manifest manifest;
  manifest.id = random_id();
  manifest.domain = domain;
  manifest.instant = parse_time(time);
  manifest.name = repository.free_name(domain, manifest.instant);
  manifest.domain_xml = "<domain type='qemu'/>";
  DiskRecord record;
  record.target = "vda";
  record.format = "raw";
  record.map = disk;
  manifest.disks.push_back(record);
  if (dump) {
    DumpRecord dump_record;
    dump_record.name = "postgresql/15-main/app";
    dump_record.map = *dump;
    manifest.dumps.push_back(dump_record);
  }
  repository.commit(manifest);
  return manifest;
}

bool is_whole(Repository& repository) {
  VerifyOptions options;
  options.read_percent = 100;
  const VerifyResult result = repository.verify({}, options);
  return result.damaged.empty() && result.problems.empty();
}

void make_packs_old(const fs::path& repository) {
  for (const fs::path& pack : files_below(repository / "packs"))
    fs::last_write_time(pack, fs::last_write_time(pack) - std::chrono::hours(24));
}

std::vector<fs::path> files_below(const fs::path& directory) {
  std::vector<fs::path> files;
  if (!fs::exists(directory)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

std::filesystem::path only_file(const std::filesystem::path& directory) {
  const std::vector<std::filesystem::path> files = files_below(directory);
  REQUIRE(files.size() == 1);
  return files[0];
}

void flip(const std::filesystem::path& path, std::uint64_t offset, std::byte mask) {
  const UniqueFd fd = open_file(path, O_RDWR);
  std::byte byte{};
  pread_exactly(fd.get(), {&byte, 1}, offset, "object");
  byte ^= mask;
  pwrite_all(fd.get(), {&byte, 1}, offset, "object");
}

void write_zeros(const std::filesystem::path& path, std::uint64_t offset) {
  const std::uint64_t size = fs::file_size(path);
  fs::resize_file(path, offset);
  fs::resize_file(path, size);
}

Sample::Sample(std::size_t disk_bytes, std::size_t dump_bytes)
    : disk(text_bytes(disk_bytes, 1)), dump(text_bytes(dump_bytes, 2)) {
  Repository::create(scratch.repository(), {small_chunks});
  Repository repository(scratch.repository(), Repository::Mode::write);
  manifest = commit(repository, "web1", write_whole(repository, disk), write_stream(repository, dump));
}

bool Sample::reads() const {
  try {
    Repository repository(scratch.repository(), Repository::Mode::read);
    const Manifest found = repository.load("web1");
    const bool same_manifest = found.name == manifest.name && found.domain_xml == manifest.domain_xml;
    const bool same_disk = read_whole(repository, found.disks.at(0).map) == disk;
    const bool same_dump = read_stream(repository, found.dumps.at(0).map) == dump;
    REQUIRE(same_manifest);
    REQUIRE(same_disk);
    REQUIRE(same_dump);
    return true;
  } catch (const Corruption&) {
    return false;
  }
}

namespace {

class CopyInMemory : public BlockReader {
 public:
  explicit CopyInMemory(const Bytes& bytes) : bytes_(bytes) {}
  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override {
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), buffer.size(), buffer.begin());
  }
  /// Zeros are holes, in pieces that are no multiples of anything.
  [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length) override {
    constexpr std::uint64_t step = 100000;
    const std::uint64_t part = std::min(length, step - offset % step);
    const auto begin = bytes_.begin() + static_cast<std::ptrdiff_t>(offset);
    const bool zero =
        std::all_of(begin, begin + static_cast<std::ptrdiff_t>(part), [](std::byte b) { return b == std::byte{0}; });
    return {{offset, part, !zero}};
  }

 private:
  const Bytes& bytes_;
};

class NoProgress : public CaptureProgress {
  void advance(std::uint64_t, std::uint64_t) override {}
};

}  // namespace

void check_differences(Repository& repository, const DiskMap& from, const Bytes& from_bytes, const DiskMap& to,
                       const Bytes& to_bytes) {
  Bytes made = from_bytes;
  made.resize(to_bytes.size());
  const Bytes before = made;
  std::uint64_t end = 0;
  const auto apply = [&](const Extent& extent) {
    REQUIRE(extent.offset >= end);
    end = extent.offset + extent.length;
    REQUIRE(end <= made.size());
    const auto at = static_cast<std::ptrdiff_t>(extent.offset);
    const auto until = static_cast<std::ptrdiff_t>(end);
    std::copy(to_bytes.begin() + at, to_bytes.begin() + until, made.begin() + at);
    if (!extent.data)
      CHECK(std::all_of(made.begin() + at, made.begin() + until, [](std::byte b) { return b == std::byte{0}; }));
  };
  repository.compare_disks(from, to, apply);
  CHECK((made == to_bytes));
  NoProgress progress;
  CopyInMemory copy(before);
  made = before;
  end = 0;
  repository.check_copy(to, copy, progress, [&](const Extent& extent) {
    // Nothing that is as it should be.
    for (std::uint64_t at = extent.offset; at < extent.offset + extent.length; at += repository.chunk_bytes()) {
      const auto begin = static_cast<std::ptrdiff_t>(at);
      const auto until = static_cast<std::ptrdiff_t>(
          std::min<std::uint64_t>(at + repository.chunk_bytes(), extent.offset + extent.length));
      CHECK(!std::equal(before.begin() + begin, before.begin() + until, to_bytes.begin() + begin));
    }
    apply(extent);
  });
  CHECK((made == to_bytes));
  CopyInMemory same(to_bytes);
  repository.check_copy(to, same, progress, [](const Extent&) { FAIL("a copy is another one"); });
}

}  // namespace stillpoint::test
