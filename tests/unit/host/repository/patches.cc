// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "host/repository/checksum.hh"
#include "host/repository/chunk-store.hh"
#include "host/repository/gear.hh"
#include "host/repository/map-node.hh"
#include "host/repository/patch.hh"
#include "tests/unit/host/repository/support.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

using namespace stillpoint;
using namespace stillpoint::test;
namespace fs = std::filesystem;

namespace {

/// A table as a dump shows it; rows of some hundred bytes, half of which do not compress.
class Table {
 public:
  explicit Table(std::size_t rows) {
    for (std::size_t i = 0; i < rows; ++i)
      insert();
  }

  void insert() { rows_.push_back(row(next_++)); }

  /// As PostgreSQL does it: the new row stands elsewhere.
  void update(std::size_t every, std::size_t first) {
    const std::size_t count = rows_.size();
    std::vector<std::string> moved;
    for (std::size_t i = first; i < count; i += every) {
      moved.push_back(fmt::format("{} changed {}\n", rows_[i].substr(0, rows_[i].size() - 1), next_++));
      rows_[i].clear();
    }
    std::erase(rows_, "");
    rows_.insert(rows_.end(), moved.begin(), moved.end());
  }

  void insert_at(std::size_t place, std::size_t count) {
    std::vector<std::string> added;
    for (std::size_t i = 0; i < count; ++i)
      added.push_back(row(next_++));
    rows_.insert(rows_.begin() + static_cast<std::ptrdiff_t>(place), added.begin(), added.end());
  }

  [[nodiscard]] Bytes dump() const {
    Bytes bytes;
    for (const std::string& row : rows_) {
      const auto part = std::as_bytes(std::span(row));
      bytes.insert(bytes.end(), part.begin(), part.end());
    }
    return bytes;
  }

 private:
  std::string row(std::size_t number) {
    return fmt::format("{}\tcustomer {}\t2026-01-01 00:00:00+00\t{:016x}{:016x} delivered delivered\n", number,
                       number % 1000, random_(), random_());
  }

  std::mt19937_64 random_{1};
  std::size_t next_ = 0;
  std::vector<std::string> rows_;
};

struct Night {
  Bytes dump;
  Manifest manifest;
  std::uint64_t stored = 0;
};

/// What a backup does with a dump.
Night keep(Repository& repository, const Table& table, int day) {
  Night night{table.dump(), {}, 0};
  std::optional<StreamMap> base;
  if (const std::optional<Manifest> latest = repository.latest("web1")) base = latest->dumps.at(0).map;
  StoredCounts counts;
  const StreamMap map = write_stream(repository, night.dump, &counts, base);
  night.manifest = commit(repository, "web1", {}, map, fmt::format("2026-11-{:02}T08:20:11Z", day));
  night.stored = counts.stored;
  return night;
}

bool reads(Repository& repository, const Night& night) {
  return read_stream(repository, repository.load(night.manifest.name).dumps.at(0).map) == night.dump;
}

}  // namespace

TEST_CASE("rows that change all over a table cost little, night after night") {
  for (const bool encrypted : {false, true}) {
    CAPTURE(encrypted);
    const Scratch scratch;
    RepositoryOptions options;
    KeySource key;
    key.passphrase = "correct horse";
    if (encrypted) options.key = key;
    Repository::create(scratch.repository(), options);
    Repository repository(scratch.repository(), Repository::Mode::write, [&] { return key; });
    Table table(60000);
    std::vector<Night> nights{keep(repository, table, 1)};
    std::uint64_t wholes = 0;
    for (int day = 2; day < 14; ++day) {
      CAPTURE(day);
      table.update(100, static_cast<std::size_t>(day));
      nights.push_back(keep(repository, table, day));
      CHECK(nights.back().stored < nights.front().stored / 2);
      wholes += nights.back().stored;
    }
    CHECK(nights[1].stored < nights.front().stored / 10);
    CHECK(wholes < nights.front().stored * 3);  // 12 times without
    for (const Night& night : nights)
      CHECK(reads(repository, night));
    CHECK(is_whole(repository));

    // What others are built on is kept, and nothing else.
    for (std::size_t i = 0; i + 1 < nights.size(); ++i)
      repository.remove(nights[i].manifest.name);
    make_packs_old(scratch.repository());
    static_cast<void>(repository.reclaim({}));
    Repository again(scratch.repository(), Repository::Mode::write, [&] { return key; });
    CHECK(reads(again, nights.back()));
    CHECK(is_whole(again));
  }
}

TEST_CASE("the same dump again costs nothing, also where it is made by patches") {
  const Scratch scratch;
  Repository::create(scratch.repository(), {});
  Repository repository(scratch.repository(), Repository::Mode::write);
  Table table(30000);
  static_cast<void>(keep(repository, table, 1));
  table.update(100, 3);
  const Night second = keep(repository, table, 2);
  CHECK(second.stored > 0);
  const Night third = keep(repository, table, 3);
  CHECK(third.stored == 0);
  CHECK(reads(repository, third));
}

TEST_CASE("rows that come in the middle do not hide those behind them") {
  const Scratch scratch;
  Repository::create(scratch.repository(), {});
  Repository repository(scratch.repository(), Repository::Mode::write);
  Table table(60000);
  const Night first = keep(repository, table, 1);
  table.insert_at(20000, 3000);
  table.update(100, 5);
  const Night second = keep(repository, table, 2);
  CHECK(second.stored < first.stored / 8);
  CHECK(reads(repository, second));
}

TEST_CASE("what changes behind much that does not is found as well") {
  const Scratch scratch;
  Repository::create(scratch.repository(), {});
  Repository repository(scratch.repository(), Repository::Mode::write);
  // Four nodes of the map and more.
  const Bytes still = random_bytes(std::size_t{5} << 26, 77);
  Table table(20000);
  std::optional<StreamMap> base;
  std::vector<std::uint64_t> stored;
  for (int day = 1; day < 3; ++day) {
    Bytes dump = still;
    const Bytes rows = table.dump();
    dump.insert(dump.end(), rows.begin(), rows.end());
    StoredCounts counts;
    base = write_stream(repository, dump, &counts, base);
    static_cast<void>(commit(repository, "web1", {}, base, fmt::format("2026-11-{:02}T08:20:11Z", day)));
    stored.push_back(counts.stored);
    CHECK((read_stream(repository, *base) == dump));
    table.update(100, 3);
  }
  CHECK(stored[1] < 300000);  // the last node of the map, patches, and new rows
}

TEST_CASE("a patch that makes something else is found, and the next backup does without it") {
  const Quiet quiet;
  const Scratch scratch;
  Repository::create(scratch.repository(), {});
  const Bytes before = random_bytes(100000, 1);
  Bytes after = before;
  after[50000] ^= std::byte{1};
  const auto id_of = [](const Bytes& bytes) { return ChunkHasher()(bytes); };
  {
    // As damaged memory, or somebody with a key, makes it: every chunk is what its id says.
    const std::shared_ptr<Store> store = open_store(scratch.repository(), StoreAccess::write);
    const std::string id = Repository(scratch.repository(), Repository::Mode::read).id();
    ChunkStore chunks(store, id, 256 << 10, true);
    StoredTally tally;
    const Bytes wrong = PatchMaker().make(before, Bytes(before), 1000);
    const StreamPiece piece{id_of(after),
                            after.size(),
                            sketch_of(after),
                            {chunks.put(before, RecordKind::data, tally)},
                            chunks.put(wrong, RecordKind::data, tally)};
    const ChunkId root = chunks.put(encode_stream_leaf({&piece, 1}), RecordKind::node, tally);
    chunks.flush();
    Repository repository(scratch.repository(), Repository::Mode::write);
    static_cast<void>(commit(repository, "web1", {}, StreamMap{root, after.size()}));
  }
  Repository repository(scratch.repository(), Repository::Mode::write);
  const StreamMap bad = repository.load("web1").dumps.at(0).map;
  CHECK_THROWS_AS(static_cast<void>(read_stream(repository, bad)), Corruption);
  VerifyOptions options;
  options.read_percent = 100;
  CHECK(repository.verify({}, options).damaged.size() == 1);
  CHECK(repository.verify({}, {}).damaged.size() == 1);  // known from now on
  const StreamMap good = write_stream(repository, after, nullptr, bad);
  CHECK((read_stream(repository, good) == after));
}

TEST_CASE("a damaged base costs the dumps that are built on it, and the next backup does not build on it") {
  const Quiet quiet;
  const Scratch scratch;
  Repository::create(scratch.repository(), {});
  Table table(30000);
  Night first;
  Night second;
  {
    Repository repository(scratch.repository(), Repository::Mode::write);
    first = keep(repository, table, 1);
    table.update(100, 3);
    second = keep(repository, table, 2);
  }
  // The first night's pack is the longer one. All of its pieces: which of them are bases depends on the repository's
  // id.
  std::vector<fs::path> packs = files_below(fs::path(scratch.repository()) / "packs");
  std::ranges::sort(packs, {}, [](const fs::path& pack) { return fs::file_size(pack); });
  for (std::uint64_t offset = 1000; offset < fs::file_size(packs.back()) * 3 / 4; offset += 4096)
    flip(packs.back(), offset, std::byte{1});

  Repository repository(scratch.repository(), Repository::Mode::write);
  CHECK_THROWS_AS(static_cast<void>(reads(repository, second)), Corruption);
  VerifyOptions options;
  options.read_percent = 100;
  CHECK(repository.verify({}, options).damaged.size() == 2);
  const Night third = keep(repository, table, 3);
  CHECK(third.stored > 0);
  CHECK(reads(repository, third));
  const VerifyResult after = repository.verify({third.manifest.name}, options);
  CHECK(after.damaged.empty());
}

TEST_CASE("a patch makes what it was made for, and damage shows") {
  const Bytes base = text_bytes(100000, 1);
  Bytes wanted = base;
  wanted.erase(wanted.begin() + 5000, wanted.begin() + 5100);
  wanted[70000] ^= std::byte{1};
  Bytes patch = PatchMaker().make(base, wanted, 10000);
  REQUIRE(!patch.empty());
  CHECK(patch.size() < 200);
  Bytes made(wanted.size());
  CHECK(PatchReader().apply(base, patch, made));
  CHECK((made == wanted));
  CHECK(PatchMaker().make(base, random_bytes(100000, 2), 10000).empty());
  made.resize(wanted.size() - 1);
  CHECK(!PatchReader().apply(base, patch, made));
  made.resize(wanted.size() + 1);
  CHECK(!PatchReader().apply(base, patch, made));
  made.resize(wanted.size());
  CHECK(!PatchReader().apply(base, random_bytes(200, 3), made));
  CHECK(!PatchReader().apply({}, patch, made));
}

TEST_CASE("a node of patches is read as it was written, and nothing else is") {
  ChunkId one;
  one.bytes[0] = std::byte{1};
  ChunkId two = one;
  two.bytes[1] = std::byte{2};
  const std::vector<StreamPiece> pieces = {
      {{}, 100, 0, {}, {}}, {one, 200, 7, {}, {}}, {two, 300, 8, {one}, two}, {one, 400, 9, {one, two, one}, two}};
  const std::vector<std::byte> bytes = encode_stream_leaf(pieces);
  const std::vector<StreamPiece> read = decode_stream_leaf(bytes, 1000, one);
  REQUIRE(read.size() == pieces.size());
  for (std::size_t i = 0; i < read.size(); ++i) {
    CHECK(read[i].id == pieces[i].id);
    CHECK(read[i].length == pieces[i].length);
    CHECK(read[i].sketch == pieces[i].sketch);
    CHECK(read[i].bases == pieces[i].bases);
    CHECK(read[i].patch == pieces[i].patch);
  }
  CHECK_THROWS_AS(static_cast<void>(decode_stream_leaf(bytes, 999, one)), Corruption);
  for (std::size_t length = 0; length < bytes.size(); ++length)
    if (length != bytes.size() - 36 - 96 && length != bytes.size() - 36 - 96 - 68)  // one patch less, and none
      CHECK_THROWS_AS(static_cast<void>(decode_stream_leaf(std::span(bytes).first(length), 1000, one)), Corruption);
  const std::size_t first_patch = 8 + 48 * 4;
  const auto refused = [&](std::size_t at, std::byte value) {
    std::vector<std::byte> changed = bytes;
    changed[at] = value;
    CHECK_THROWS_AS(static_cast<void>(decode_stream_leaf(changed, 1000, one)), Corruption);
  };
  refused(first_patch, std::byte{4});      // behind the last piece
  refused(first_patch, std::byte{3});      // twice the same
  refused(first_patch, std::byte{0});      // zeros are not patched
  refused(first_patch + 2, std::byte{0});  // of nothing
  refused(first_patch + 2, std::byte{4});
  std::vector<std::byte> zero = bytes;
  std::memset(zero.data() + first_patch + 4, 0, 32);
  CHECK_THROWS_AS(static_cast<void>(decode_stream_leaf(zero, 1000, one)), Corruption);
}

TEST_CASE("pieces that differ in little share their sketch") {
  std::size_t shared = 0;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Bytes bytes = random_bytes(60000, seed);
    const std::uint64_t before = sketch_of(bytes);
    bytes.erase(bytes.begin() + 30000, bytes.begin() + 30100);
    shared += sketch_of(bytes) == before ? 1 : 0;
    CHECK(sketch_of(random_bytes(60000, seed + 1000)) != before);
  }
  CHECK(shared > 45);
  CHECK(sketch_of(random_bytes(63, 1)) == 0);
  CHECK(sketch_of(random_bytes(64, 1)) != 0);
}
