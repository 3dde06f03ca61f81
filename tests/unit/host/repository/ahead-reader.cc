// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/ahead-reader.hh"

#include "common/errors.hh"
#include "support.hh"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace stillpoint;
using namespace stillpoint::test;

namespace {

/// Bytes in memory, with a place that cannot be read.
class Memory : public BlockReader {
 public:
  Memory(const Bytes& bytes, std::atomic<unsigned>& reads, std::optional<std::uint64_t> bad = std::nullopt)
      : bytes_(bytes), reads_(reads), bad_(bad) {}
  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  void pread(std::span<std::byte> buffer, std::uint64_t offset) override {
    ++reads_;
    if (bad_ && *bad_ >= offset && *bad_ < offset + buffer.size()) throw Corruption("bad");
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), buffer.size(), buffer.begin());
  }

 private:
  const Bytes& bytes_;
  std::atomic<unsigned>& reads_;
  std::optional<std::uint64_t> bad_;
};

constexpr std::uint32_t piece_bytes = 4096;

/// Whether that part of the bytes is what is read.
bool same_part(BlockReader& reader, const Bytes& bytes, std::uint64_t offset, std::size_t length) {
  Bytes part(length);
  reader.pread(part, offset);
  return std::equal(part.begin(), part.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
}

}  // namespace

TEST_CASE("a reader that reads ahead gives what is there") {
  const Bytes bytes = random_bytes(50 * piece_bytes + 77, 1);
  std::atomic<unsigned> reads = 0;
  Crew crew;
  AheadReader reader(std::make_unique<Memory>(bytes, reads), crew, piece_bytes, 16 * piece_bytes);

  SUBCASE("in small steps, each piece once") {
    for (std::uint64_t at = 0; at < bytes.size(); at += 1000)
      REQUIRE(same_part(reader, bytes, at, std::min<std::uint64_t>(1000, bytes.size() - at)));
    CHECK(reads == 51);
  }
  SUBCASE("all at once") {
    CHECK(same_part(reader, bytes, 0, bytes.size()));
    CHECK(same_part(reader, bytes, bytes.size(), 0));
    CHECK_THROWS_AS(same_part(reader, bytes, bytes.size() - 1, 2), std::out_of_range);
  }
  SUBCASE("anywhere, by several at once") {
    std::atomic<unsigned> wrong = 0;
    {
      std::vector<std::jthread> threads;
      for (unsigned seed = 0; seed < 4; ++seed)
        threads.emplace_back([&, seed] {
          std::mt19937 random(seed);
          for (int i = 0; i < 300; ++i) {
            const std::uint64_t at = random() % bytes.size();
            const std::size_t length = std::min<std::uint64_t>(random() % 20000, bytes.size() - at);
            if (!same_part(reader, bytes, at, length)) ++wrong;
          }
        });
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("what cannot be read ahead is an error for whoever asks for it") {
  const Bytes bytes = random_bytes(20 * piece_bytes, 2);
  std::atomic<unsigned> reads = 0;
  Crew crew;
  AheadReader reader(std::make_unique<Memory>(bytes, reads, 10 * piece_bytes), crew, piece_bytes, 64 * piece_bytes);
  for (std::uint64_t at = 0; at < 10; ++at)
    CHECK(same_part(reader, bytes, at * piece_bytes, piece_bytes));
  CHECK_THROWS_AS(same_part(reader, bytes, 10 * piece_bytes, 1), Corruption);
  CHECK_THROWS_AS(same_part(reader, bytes, 10 * piece_bytes, 1), Corruption);
  CHECK(same_part(reader, bytes, 11 * piece_bytes, 9 * piece_bytes));
}

TEST_CASE("a dump is read at any place") {
  const Scratch scratch;
  Repository::create(scratch.repository(), {});
  Repository repository(scratch.repository(), Repository::Mode::write);
  // Nodes of two levels: more than 1024 chunks.
  Bytes dump = random_bytes(80 << 20, 3);
  dump.resize(84 << 20);  // zeros
  const Bytes end = text_bytes(300000, 4);
  dump.insert(dump.end(), end.begin(), end.end());
  const StreamMap map = write_stream(repository, dump);
  static_cast<void>(commit(repository, "web1", write_whole(repository, random_bytes(1000, 5)), map));
  const auto reader = repository.open_dump(map);
  REQUIRE(reader->size() == dump.size());
  std::mt19937 random(6);
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t at = i < 50 ? random() % dump.size() : dump.size() - 1 - random() % 400000;
    CHECK(same_part(*reader, dump, at, std::min<std::uint64_t>(random() % 300000, dump.size() - at)));
  }
  CHECK(same_part(*reader, dump, dump.size(), 0));
  CHECK_THROWS_AS(same_part(*reader, dump, dump.size(), 1), std::out_of_range);
  CHECK(repository.open_dump({})->size() == 0);
}
