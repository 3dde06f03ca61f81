// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/repository.hh"

#include "common/errors.hh"
#include "common/file.hh"
#include "host/repository/crew.hh"
#include "tests/unit/host/repository/faulty-store.hh"
#include "tests/unit/host/repository/support.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <fstream>
#include <memory>
#include <thread>

using namespace stillpoint;
using namespace stillpoint::test;
using namespace std::string_view_literals;

namespace {

Repository new_repository(const Scratch& scratch) {
  Repository::create(scratch.repository(), {small_chunks});
  return Repository(scratch.repository(), Repository::Mode::write);
}

}  // namespace

TEST_CASE("disks of odd sizes come back as they were") {
  const Scratch scratch;
  Repository repository = new_repository(scratch);
  for (const std::size_t size : {0, 1, 511, 65535, 65536, 65537, 1000000, 70 * 65536 + 512}) {
    CAPTURE(size);
    const Bytes disk = random_bytes(size, size);
    const DiskMap map = write_whole(repository, disk);
    const Manifest manifest = commit(repository, "web1", map);
    Repository again(scratch.repository(), Repository::Mode::read);
    CHECK((read_whole(again, again.load(manifest.name).disks.at(0).map) == disk));
  }
  CHECK(repository.list("web1").size() == 8);
}

TEST_CASE("the longest chunks come back as they were") {
  const Scratch scratch;
  Repository::create(scratch.repository(), {4 << 20});
  Repository repository(scratch.repository(), Repository::Mode::write);
  for (const std::size_t size : {1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 9 << 20}) {
    CAPTURE(size);
    const Bytes disk = random_bytes(size, size);
    const Manifest manifest = commit(repository, "web1", write_whole(repository, disk));
    Repository again(scratch.repository(), Repository::Mode::read);
    CHECK((read_whole(again, again.load(manifest.name).disks.at(0).map) == disk));
  }
}

TEST_CASE("a disk is read at any place and length") {
  const Scratch scratch;
  Repository repository = new_repository(scratch);
  const Bytes disk = text_bytes(20 * small_chunks + 777, 3);
  const DiskMap map = write_whole(repository, disk);
  const std::unique_ptr<BlockReader> reader = repository.open_disk(map);
  for (const std::size_t offset : {std::size_t{0}, std::size_t{1}, std::size_t{65535}, std::size_t{65536},
                                   std::size_t{300000}, disk.size() - 600}) {
    for (const std::size_t length : {std::size_t{1}, std::size_t{512}, std::size_t{65536}, std::size_t{200000}}) {
      const std::size_t most = std::min(length, disk.size() - offset);
      Bytes bytes(most);
      reader->pread(bytes, offset);
      CHECK(std::equal(bytes.begin(), bytes.end(), disk.begin() + static_cast<std::ptrdiff_t>(offset)));
    }
  }
  Bytes first(100000);
  Bytes second(5000);
  const BlockReader::Request requests[] = {{70000, first}, {10, second}};
  reader->pread_many(requests);
  CHECK(std::equal(first.begin(), first.end(), disk.begin() + 70000));
  CHECK(std::equal(second.begin(), second.end(), disk.begin() + 10));
}

TEST_CASE("zeros are not stored and read as holes") {
  const Scratch scratch;
  Repository repository = new_repository(scratch);
  const std::uint64_t size = std::uint64_t{1} << 45;  // 32 TiB
  const std::unique_ptr<DiskWriter> writer = repository.write_disk(size, std::nullopt);
  const std::uint64_t chunks = size / small_chunks;
  const std::uint64_t data = chunks / 2 + 12345;
  writer->submit_zero(0, data);
  ChunkBuffer buffer = writer->acquire(data);
  std::fill(buffer.bytes().begin(), buffer.bytes().end(), std::byte{7});
  writer->submit(data, std::move(buffer));
  buffer = writer->acquire(data + 1);
  std::fill(buffer.bytes().begin(), buffer.bytes().end(), std::byte{0});
  writer->submit(data + 1, std::move(buffer));
  writer->submit_zero(data + 2, chunks - data - 2);
  const DiskMap map = writer->finish();
  CHECK(writer->counts().new_chunks <= 5);

  const std::unique_ptr<BlockReader> reader = repository.open_disk(map);
  std::vector<Extent> extents;
  for (std::uint64_t at = 0; at < size; at = extents.back().offset + extents.back().length) {
    const std::vector<Extent> more = reader->extents(at, size - at);
    REQUIRE(!more.empty());
    extents.insert(extents.end(), more.begin(), more.end());
  }
  REQUIRE(extents.size() == 3);
  CHECK(extents[0] == Extent{0, data * small_chunks, false});
  CHECK(extents[1] == Extent{data * small_chunks, small_chunks, true});
  CHECK(extents[2].data == false);
  Bytes bytes(3 * small_chunks);
  reader->pread(bytes, (data - 1) * small_chunks);
  CHECK(bytes[small_chunks - 1] == std::byte{0});
  CHECK(bytes[small_chunks] == std::byte{7});
  CHECK(bytes[2 * small_chunks] == std::byte{0});

  const std::unique_ptr<DiskWriter> empty = repository.write_disk(size, map);
  empty->submit_zero(0, chunks);
  const DiskMap zeros = empty->finish();
  CHECK(zeros.root == ChunkId{});
}

TEST_CASE("an increment writes the changed chunks and their paths only") {
  const Scratch scratch;
  Repository repository = new_repository(scratch);
  Bytes disk = random_bytes(std::size_t{1100} * small_chunks, 1);  // two nodes of level 1
  const DiskMap base = write_whole(repository, disk);
  static_cast<void>(commit(repository, "web1", base));

  disk[5] ^= std::byte{1};
  disk[std::size_t{7} * small_chunks] ^= std::byte{1};
  StoredCounts counts;
  const DiskMap map = write_chunks(repository, disk, base, {0, 7}, &counts);
  CHECK(counts.new_chunks == 4);  // two chunks, one node of level 1, the root
  CHECK((read_whole(repository, map) == disk));

  const DiskMap same = write_chunks(repository, disk, map, {});
  CHECK(same.root == map.root);
  const DiskMap again = write_chunks(repository, disk, map, {3, 1050}, &counts);
  CHECK(again.root == map.root);
  CHECK(counts.new_chunks == 0);
}

TEST_CASE("an increment does not read what it does not touch") {
  const Scratch scratch;
  Repository repository = new_repository(scratch);
  Bytes disk = random_bytes(std::size_t{2100} * small_chunks, 2);
  const DiskMap base = write_whole(repository, disk);
  static_cast<void>(commit(repository, "web1", base));
  // Damage the two full nodes of level 1 (stored raw: "SPND", level 1, 1024 ids); the third is the one to be changed.
  std::size_t damaged = 0;
  for (const std::filesystem::path& pack : files_below(std::filesystem::path(scratch.repository()) / "packs")) {
    std::string bytes = read_text(pack, 256 << 20);
    constexpr std::string_view node = "SPND\x01\0\0\x04"sv;
    for (std::size_t at = bytes.find(node); at != std::string::npos; at = bytes.find(node, at + 1)) {
      bytes[at] ^= 1;
      ++damaged;
    }
    std::ofstream(pack, std::ios::binary) << bytes;
  }
  REQUIRE(damaged == 2);
  Repository incremental(scratch.repository(), Repository::Mode::write);
  disk[std::size_t{2060} * small_chunks] ^= std::byte{1};
  const DiskMap map = write_chunks(incremental, disk, base, {2060});
  CHECK(map.root != base.root);
  CHECK_THROWS_AS(static_cast<void>(write_chunks(incremental, disk, base, {1})), Corruption);
}

TEST_CASE("a disk may grow and shrink between still points") {
  const Scratch scratch;
  Repository repository = new_repository(scratch);
  const std::size_t sizes[] = {3 * 65536 + 100,     3 * 65536, 1024 * 65536, 1025 * 65536 + 512, 100, 65536 * 2048,
                               65536 * 1023 + 4096, 0,         70000};
  Bytes disk;
  DiskMap map;
  for (const std::size_t size : sizes) {
    CAPTURE(size);
    const std::size_t before = disk.size();
    disk.resize(size);
    std::vector<std::uint64_t> changed;
    if (size > before) {
      // What a grown disk's new part holds is written, but for some of it.
      const Bytes news = random_bytes(size - before, size);
      const std::uint64_t first = (before + 65535) / 65536;
      for (std::uint64_t number = first; number < (size + 65535) / 65536; number += 3) {
        const std::size_t begin = number * 65536;
        const std::size_t length = std::min<std::size_t>(65536, size - begin);
        std::copy_n(news.begin() + static_cast<std::ptrdiff_t>(begin - before), length,
                    disk.begin() + static_cast<std::ptrdiff_t>(begin));
        changed.push_back(number);
      }
    }
    map = write_chunks(repository, disk, map, changed);
    CHECK(map.size == size);
    CHECK((read_whole(repository, map) == disk));
    CHECK(map.root == write_whole(repository, disk).root);
  }
}

TEST_CASE("chunks may be submitted in any order, by far more readers than buffers") {
  const Scratch scratch;
  Repository repository = new_repository(scratch);
  const Bytes disk = text_bytes(std::size_t{300} * small_chunks, 5);
  const std::unique_ptr<DiskWriter> writer = repository.write_disk(disk.size(), std::nullopt);
  std::vector<std::pair<std::uint64_t, ChunkBuffer>> held;
  for (std::uint64_t number = 0; number < 300; ++number) {
    held.emplace_back(number, writer->acquire(number));
    std::copy_n(disk.begin() + static_cast<std::ptrdiff_t>(number * small_chunks), small_chunks,
                held.back().second.bytes().begin());
  }
  std::reverse(held.begin(), held.end());
  for (auto& [number, buffer] : held)
    writer->submit(number, std::move(buffer));
  CHECK((read_whole(repository, writer->finish()) == disk));

  // More than the pool holds, all in one reader's hands: it must not wait for itself.
  const std::size_t many = 2000;
  const std::unique_ptr<DiskWriter> greedy = repository.write_disk(many * small_chunks, std::nullopt);
  std::vector<ChunkBuffer> buffers;
  for (std::uint64_t number = 0; number < many; ++number) {
    buffers.push_back(greedy->acquire(number));
    std::fill(buffers.back().bytes().begin(), buffers.back().bytes().end(), std::byte{1});
  }
  for (std::uint64_t number = 0; number < many; ++number)
    greedy->submit(number, std::move(buffers[number]));
  static_cast<void>(greedy->finish());
  CHECK(greedy->counts().new_chunks <= 4);
}

TEST_CASE("a reader that is ahead of the workers learns that the store has failed") {
  const Scratch scratch;
  static_cast<void>(new_repository(scratch));
  std::atomic<bool> fails = false;
  const auto fault = [&fails](FaultyStore::Step step, std::uint64_t) {
    if (!fails || step == FaultyStore::Step::read || step == FaultyStore::Step::look) return;
    // Meanwhile the reader goes as far ahead as it may.
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    throw StorageError("it is full");
  };
  Repository repository(std::make_shared<FaultyStore>(open_store(scratch.repository(), StoreAccess::write), fault),
                        Repository::Mode::write);
  const Bytes disk = random_bytes(std::size_t{1400} * small_chunks, 6);
  const std::unique_ptr<DiskWriter> writer = repository.write_disk(disk.size(), std::nullopt);
  std::uint64_t submitted = 0;
  fails = true;
  const auto write = [&] {
    for (; submitted < 1400; ++submitted) {
      ChunkBuffer buffer = writer->acquire(submitted);
      std::copy_n(disk.begin() + static_cast<std::ptrdiff_t>(submitted * small_chunks), small_chunks,
                  buffer.bytes().begin());
      writer->submit(submitted, std::move(buffer));
    }
  };
  CHECK_THROWS_WITH_AS(write(), "it is full", StorageError);
  fails = false;
  // Eight that wait and two that are worked on, for each worker, and one that was acquired.
  CHECK(submitted <= 10 * Crew().size() + 1);
}

TEST_CASE("several disks and dumps are written at once") {
  const Scratch scratch;
  Repository repository = new_repository(scratch);
  const Bytes shared = text_bytes(3 << 20, 6);
  std::vector<Bytes> contents;
  std::vector<DiskMap> disks(3);
  std::vector<StreamMap> dumps(2);
  for (std::uint64_t i = 0; i < 5; ++i) {
    contents.push_back(random_bytes((4 << 20) + i * 1000, 100 + i));
    contents.back().insert(contents.back().begin(), shared.begin(), shared.end());
  }
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < 5; ++i)
      threads.emplace_back([&, i] {
        if (i < 3)
          disks[i] = write_whole(repository, contents[i]);
        else
          dumps[i - 3] = write_stream(repository, contents[i]);
      });
  }
  static_cast<void>(commit(repository, "web1", disks[0], dumps[0]));
  Repository again(scratch.repository(), Repository::Mode::read);
  for (std::size_t i = 0; i < 3; ++i)
    CHECK((read_whole(again, disks[i]) == contents[i]));
  for (std::size_t i = 0; i < 2; ++i)
    CHECK((read_stream(again, dumps[i]) == contents[i + 3]));
}

TEST_CASE("a writer that is given up leaves the others alone") {
  const Scratch scratch;
  Repository repository = new_repository(scratch);
  const Bytes disk = random_bytes(std::size_t{40} * small_chunks, 8);
  {
    const std::unique_ptr<DiskWriter> writer = repository.write_disk(disk.size(), std::nullopt);
    for (std::uint64_t number = 0; number < 20; ++number) {
      ChunkBuffer buffer = writer->acquire(number);
      if (number % 2 == 0) writer->submit(number, std::move(buffer));
    }
  }
  const DiskMap map = write_whole(repository, disk);
  const Manifest manifest = commit(repository, "web1", map);
  CHECK((read_whole(repository, repository.load(manifest.name).disks[0].map) == disk));
}

TEST_CASE("a dump costs what changed since the last one") {
  const Scratch scratch;
  Repository repository = new_repository(scratch);
  Bytes dump = text_bytes(24 << 20, 9);
  StoredCounts first;
  const StreamMap before = write_stream(repository, dump, &first);
  CHECK(before.size == dump.size());
  CHECK(first.stored > 4 << 20);
  const Bytes inserted = text_bytes(1000, 77);
  dump.insert(dump.begin() + 1234567, inserted.begin(), inserted.end());
  StoredCounts second;
  const StreamMap after = write_stream(repository, dump, &second);
  CHECK(second.stored < first.stored / 20);
  CHECK((read_stream(repository, after) == dump));
  CHECK(read_stream(repository, write_stream(repository, {})).empty());
  const Bytes zeros(3 << 20);
  CHECK((read_stream(repository, write_stream(repository, zeros)) == zeros));
  const Bytes one(1, std::byte{9});
  CHECK((read_stream(repository, write_stream(repository, one)) == one));
}

TEST_CASE("still points are named, listed and found") {
  const Scratch scratch;
  Repository repository = new_repository(scratch);
  const DiskMap map = write_whole(repository, random_bytes(1000, 1));
  CHECK(repository.list().empty());
  CHECK(!repository.latest("web1"));
  CHECK_THROWS_AS(static_cast<void>(repository.load("web1")), NotFound);
  const Manifest first = commit(repository, "web1", map, std::nullopt, "2026-11-22T08:20:11Z");
  const Manifest second = commit(repository, "web1", map, std::nullopt, "2026-11-22T08:20:11.5Z");
  const Manifest third = commit(repository, "web1", map, std::nullopt, "2026-11-21T08:20:11Z");
  const Manifest odd = commit(repository, ".w \xc3\xa9%@b:1", map);
  CHECK(first.name == "web1@2026-11-22T08:20:11Z");
  CHECK(second.name == "web1@2026-11-22T08:20:11.500000Z");
  const std::vector<StillPointSummary> all = repository.list();
  REQUIRE(all.size() == 4);
  CHECK(all[0].domain == ".w \xc3\xa9%@b:1");
  CHECK(all[1].name == third.name);
  CHECK(all[3].name == second.name);
  CHECK(repository.list("web1").size() == 3);
  CHECK(repository.load("web1").id == second.id);
  CHECK(repository.load("web1@latest").id == second.id);
  CHECK(repository.load(first.name).id == first.id);
  CHECK(repository.load(odd.name).id == odd.id);
  CHECK(repository.load(odd.domain).id == odd.id);
  CHECK(repository.latest("web1")->id == second.id);
  CHECK(repository.load(first.name).domain_xml == "<domain type='qemu'/>");
  try {
    static_cast<void>(repository.load("web1@2026-11-22T08:20:12Z"));
    FAIL("found what is not there");
  } catch (const NotFound& e) {
    CHECK(e.hint().find(first.name) != std::string::npos);
  }
  try {
    static_cast<void>(repository.load("wbe1"));
    FAIL("found what is not there");
  } catch (const NotFound& e) {
    CHECK(e.hint().find("web1") != std::string::npos);
  }
  for (const char* bad : {"", "a/b", "a\nb", "..\x01", "\xff"})
    CHECK_THROWS_AS(static_cast<void>(repository.free_name(bad, wall_now())), UsageError);
  CHECK(repository.free_name("..", wall_now()).starts_with("..@"));
}

TEST_CASE("what is not committed is not listed, and is used by the next backup") {
  const Scratch scratch;
  Repository::create(scratch.repository(), {small_chunks});
  const Bytes disk = random_bytes(std::size_t{1100} * small_chunks, 12);  // more than a pack
  {
    Repository repository(scratch.repository(), Repository::Mode::write);
    static_cast<void>(write_whole(repository, disk));
  }
  Repository repository(scratch.repository(), Repository::Mode::write);
  CHECK(repository.list().empty());
  const std::unique_ptr<DiskWriter> writer = repository.write_disk(disk.size(), std::nullopt);
  for (std::uint64_t number = 0; number < 1100; ++number) {
    ChunkBuffer buffer = writer->acquire(number);
    std::copy_n(disk.begin() + static_cast<std::ptrdiff_t>(number * small_chunks), small_chunks,
                buffer.bytes().begin());
    writer->submit(number, std::move(buffer));
  }
  const DiskMap map = writer->finish();
  CHECK(writer->counts().new_chunks < 1100);
  CHECK((read_whole(repository, map) == disk));
}

TEST_CASE("a place that is no repository is named as such") {
  const Scratch scratch;
  CHECK_THROWS_AS(Repository(scratch.repository(), Repository::Mode::read), ConfigError);
  CHECK_THROWS_AS(Repository(scratch.path().native(), Repository::Mode::read), ConfigError);
  for (const char* url : {"s3://bucket", "rados://", "rados://pool?x=y", "swift://x", "ftp://x", ""})
    CHECK_THROWS_AS(Repository(url, Repository::Mode::read), ConfigError);
  Repository::create("file://" + scratch.repository(), {});
  CHECK_THROWS_AS(Repository::create(scratch.repository(), {}), ConfigError);
  CHECK_THROWS_AS(Repository::create(scratch.repository() + "2", {1000}), ConfigError);
  Repository repository(scratch.repository(), Repository::Mode::read);
  CHECK(repository.chunk_bytes() == 256 << 10);
  CHECK(is_id(repository.id()));
  CHECK(repository.directory() == scratch.path() / "repository");
  CHECK_THROWS_AS(static_cast<void>(repository.write_dump()), ConfigError);
}

TEST_CASE("a newer format and unknown features are refused") {
  const Scratch scratch;
  Repository::create(scratch.repository(), {});
  const std::filesystem::path features = std::filesystem::path(scratch.repository()) / "features";
  std::filesystem::create_directory(features);
  const auto touch = [&](const char* name) { std::ofstream(features / name).put('x'); };
  touch("compat.colour");
  CHECK_NOTHROW(Repository(scratch.repository(), Repository::Mode::write));
  touch("ro_compat.leases");
  CHECK_NOTHROW(Repository(scratch.repository(), Repository::Mode::write));
  touch("ro_compat.colour");
  CHECK_NOTHROW(Repository(scratch.repository(), Repository::Mode::read));
  CHECK_THROWS_AS(Repository(scratch.repository(), Repository::Mode::write), ConfigError);
  touch("incompat.quantum");
  CHECK_THROWS_AS(Repository(scratch.repository(), Repository::Mode::read), ConfigError);
}

TEST_CASE("nodes of one cluster wait for each other, and for nobody else") {
  const Scratch scratch;
  Repository ours = new_repository(scratch);
  Repository theirs(scratch.repository(), Repository::Mode::write);
  const Deadline soon(std::chrono::milliseconds(120));
  // Named twice, and two names that share a file, are no reason to wait for oneself.
  std::vector<std::string> many{"galera-a", "galera-a"};
  for (int i = 0; i < 100; ++i)
    many.push_back(fmt::format("galera-{}", i));
  Repository::Locks locks = ours.lock_clusters(many, soon, {});
  CHECK(locks.size() <= 64);
  CHECK_THROWS_AS(static_cast<void>(theirs.lock_clusters({"galera-a"}, soon, {})), Locked);
  locks.clear();
  locks = theirs.lock_clusters({"galera-a"}, soon, {});
  CHECK_THROWS_AS(static_cast<void>(ours.lock_clusters({"galera-a"}, soon, {})), Locked);
  CHECK(std::ranges::any_of(std::array{"galera-1", "galera-2", "galera-3"}, [&](const char* other) {
    try {
      return !ours.lock_clusters({other}, soon, {}).empty();
    } catch (const Locked&) {
      return false;  // it shares the file
    }
  }));
  std::stop_source stop;
  stop.request_stop();
  CHECK_THROWS_AS(
      static_cast<void>(ours.lock_clusters({"galera-a"}, Deadline(std::chrono::minutes(1)), stop.get_token())),
      Interrupted);
  std::jthread holder([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    locks.clear();
  });
  CHECK(ours.lock_clusters({"galera-a"}, Deadline(std::chrono::seconds(30)), {}).size() == 1);
}
