// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "host/repository/pack.hh"
#include "host/repository/repository.hh"
#include "tests/unit/host/repository/support.hh"

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>

using namespace stillpoint;
using namespace stillpoint::test;
namespace fs = std::filesystem;

namespace {

/// Where the bytes of the first record begin.
constexpr std::uint64_t first_payload = pack_header_bytes + record_header_bytes;

VerifyResult verify(const Sample& sample, unsigned read_percent, Repository::Mode mode = Repository::Mode::write) {
  Repository repository(sample.scratch.repository(), mode);
  VerifyOptions options;
  options.read_percent = read_percent;
  return repository.verify({}, options);
}

/// As the next full backup does.
void store_again(const Sample& sample) {
  Repository repository(sample.scratch.repository(), Repository::Mode::write);
  static_cast<void>(
      commit(repository, "web1", write_whole(repository, sample.disk), write_stream(repository, sample.dump)));
}

/// Calls `store` while the pack is not there, as for somebody who began before it was: it stores copies of its own.
void store_beside(const Sample& sample, const fs::path& hidden, const std::function<void()>& store) {
  const fs::path aside = sample.scratch.path() / "aside";
  fs::rename(hidden, aside);
  store();
  fs::rename(aside, hidden);
}

}  // namespace

TEST_CASE("what is whole is found whole") {
  const Sample sample;
  for (const unsigned percent : {0U, 1U, 100U}) {
    const VerifyResult result = verify(sample, percent);
    CHECK(result.damaged.empty());
    CHECK(result.problems.empty());
    CHECK(result.still_points == 1);
    CHECK(result.covered == sample.disk.size() + sample.dump.size());
    CHECK(result.packs_read == (percent == 0 ? 0 : 1));
    CHECK((result.chunks_read > 8) == (percent > 0));
  }
  CHECK(files_below(sample.root() / "quarantine").empty());
}

TEST_CASE("a damaged chunk goes to quarantine, and the next backup heals it") {
  const Quiet quiet;
  const Sample sample(5 * small_chunks + 100, 0);
  const fs::path pack = only_file(sample.root() / "packs");
  flip(pack, first_payload + 10, std::byte{1});
  CHECK(verify(sample, 0).damaged.empty());  // nobody has looked yet

  VerifyResult result = verify(sample, 100, Repository::Mode::read);
  CHECK(result.damaged_chunks == 1);
  REQUIRE(result.damaged.size() == 1);
  CHECK(result.damaged[0].name == sample.manifest.name);
  CHECK(files_below(sample.root() / "quarantine").empty());

  for (const bool again : {false, true}) {
    result = verify(sample, 100);
    CHECK(result.damaged_chunks == (again ? 0 : 1));
    CHECK(result.damaged.size() == 1);
    CHECK(files_below(sample.root() / "quarantine").size() == 1);
  }
  CHECK(verify(sample, 0).damaged.size() == 1);  // known from now on, without reading
  CHECK(!sample.reads());
  {
    Repository repository(sample.scratch.repository(), Repository::Mode::write);
    CHECK(!repository.is_whole(sample.manifest.disks[0].map));
  }
  store_again(sample);
  CHECK(verify(sample, 100).damaged.empty());
  CHECK(sample.reads());
  Repository repository(sample.scratch.repository(), Repository::Mode::write);
  CHECK(repository.is_whole(sample.manifest.disks[0].map));
}

TEST_CASE("a chunk that is stored twice survives the damage of one copy") {
  const Quiet quiet;
  const Sample sample(5 * small_chunks + 100, 0);
  const fs::path first = only_file(sample.root() / "packs");
  store_beside(sample, first, [&] { store_again(sample); });
  REQUIRE(files_below(sample.root() / "packs").size() == 2);
  for (const fs::path& pack : files_below(sample.root() / "packs")) {
    flip(pack, first_payload + 10, std::byte{1});
    VerifyResult result = verify(sample, 100);
    CHECK(result.damaged_chunks == 1);
    CHECK(result.damaged.empty());
    CHECK(sample.reads());
    flip(pack, first_payload + 10, std::byte{1});
    // A look that finds it whole takes it out of quarantine.
    CHECK(!files_below(sample.root() / "quarantine").empty());
    CHECK(verify(sample, 100).problems.empty());
    CHECK(files_below(sample.root() / "quarantine").empty());
  }
  const fs::path rotten = files_below(sample.root() / "packs").front();
  flip(rotten, first_payload + 10, std::byte{1});
  CHECK(verify(sample, 100).damaged_chunks == 1);
  Repository repository(sample.scratch.repository(), Repository::Mode::write);
  make_packs_old(sample.root());
  static_cast<void>(repository.reclaim({}));
  CHECK(verify(sample, 100).damaged.empty());
  CHECK(sample.reads());
}

TEST_CASE("of a chunk that is stored twice prune keeps a copy that it has read") {
  const Quiet quiet;
  for (const std::size_t rotten : {0U, 1U}) {
    CAPTURE(rotten);
    const Sample sample(5 * small_chunks + 100, 0);
    const fs::path first = only_file(sample.root() / "packs");
    store_beside(sample, first, [&] { store_again(sample); });
    const std::vector<fs::path> packs = files_below(sample.root() / "packs");
    REQUIRE(packs.size() == 2);
    // Nobody has looked since.
    flip(packs[rotten], first_payload + 10, std::byte{1});
    make_packs_old(sample.root());
    static_cast<void>(Repository(sample.scratch.repository(), Repository::Mode::write).reclaim({}));
    CHECK(sample.reads());
    CHECK(verify(sample, 100).damaged.empty());
  }
}

TEST_CASE("a pack that is rewritten gives up no chunk for a rotten copy in a pack that stays") {
  const Quiet quiet;
  const Sample sample(5 * small_chunks, 0);
  const fs::path first = only_file(sample.root() / "packs");
  // The first chunk is needed of both packs, and little else of the first one.
  Bytes other = text_bytes(6 * small_chunks, 77);
  std::copy_n(sample.disk.begin(), small_chunks, other.begin());
  Bytes kept(5 * small_chunks);
  std::copy_n(sample.disk.begin(), small_chunks, kept.begin());
  fs::path second;
  store_beside(sample, first, [&] {
    Repository repository(sample.scratch.repository(), Repository::Mode::write);
    // The shared chunk alone, so that it comes first in its pack.
    static_cast<void>(write_whole(repository, std::span(other).first(small_chunks)));
    static_cast<void>(commit(repository, "web2", write_whole(repository, other)));
    second = only_file(sample.root() / "packs");
  });
  DiskMap kept_map;
  {
    Repository repository(sample.scratch.repository(), Repository::Mode::write);
    kept_map = write_whole(repository, kept);
    static_cast<void>(commit(repository, "web3", kept_map));
    repository.remove(sample.manifest.name);
  }
  flip(second, first_payload + 10, std::byte{1});
  make_packs_old(sample.root());
  static_cast<void>(Repository(sample.scratch.repository(), Repository::Mode::write).reclaim({}));
  CHECK(!fs::exists(first));
  Repository repository(sample.scratch.repository(), Repository::Mode::write);
  CHECK((read_whole(repository, kept_map) == kept));
}

TEST_CASE("a pack that is cut short or gone is noticed at once, and stored again") {
  const Quiet quiet;
  for (const int part : {0, 1, 2}) {
    CAPTURE(part);
    const Sample sample;
    const fs::path pack = only_file(sample.root() / "packs");
    if (part == 2)
      fs::remove(pack);
    else
      fs::resize_file(pack, part == 0 ? 0 : fs::file_size(pack) / 3);
    CHECK(verify(sample, 0).damaged.size() == 1);
    CHECK(verify(sample, 100).damaged.size() == 1);
    store_again(sample);
    CHECK(verify(sample, 100).damaged.empty());
    CHECK(sample.reads());
  }
}

TEST_CASE("every flipped byte of a small repository is found") {
  const Quiet quiet;
  const Sample sample(300, 200);
  std::size_t flipped = 0;
  for (const fs::path& file : files_below(sample.root())) {
    if (file.filename() == "reserve") continue;  // it has no content
    CAPTURE(file.native());
    const std::uint64_t size = fs::file_size(file);
    for (std::uint64_t offset = 0; offset < size; ++offset, ++flipped) {
      CAPTURE(offset);
      flip(file, offset, std::byte{0x10});
      try {
        const VerifyResult result = verify(sample, 100, Repository::Mode::read);
        const bool found = !result.damaged.empty() || !result.problems.empty();
        CHECK(found);
      } catch (const Error&) {
        // Refused as a whole: as good.
      }
      flip(file, offset, std::byte{0x10});
    }
  }
  CHECK(flipped > 2000);
  CHECK(verify(sample, 100).problems.empty());
}

TEST_CASE("the index is made anew from the packs") {
  const Quiet quiet;
  const Sample sample;
  store_again(sample);
  flip(only_file(sample.root() / "index"), 300, std::byte{1});
  const VerifyResult before = verify(sample, 0, Repository::Mode::read);
  CHECK(before.damaged.empty());
  CHECK(before.problems.size() == 1);
  CHECK(Repository(sample.scratch.repository(), Repository::Mode::write).rebuild_index() == 1);
  CHECK(files_below(sample.root() / "index").size() == 1);
  CHECK(verify(sample, 100).problems.empty());
  CHECK(sample.reads());
}

TEST_CASE("still points are chosen by name and by domain") {
  const Quiet quiet;
  const Sample sample;
  store_again(sample);
  Repository repository(sample.scratch.repository(), Repository::Mode::write);
  static_cast<void>(commit(repository, "db@site", sample.manifest.disks[0].map));
  CHECK(repository.resolve({}).size() == 3);
  CHECK(repository.resolve({"web1"}).size() == 2);
  CHECK(repository.resolve({"web1@latest"}).size() == 1);
  CHECK(repository.resolve({"db@site", sample.manifest.name}).size() == 2);
  CHECK_THROWS_AS(static_cast<void>(repository.resolve({"web2"})), NotFound);
  CHECK(repository.verify({"db@site"}, {}).still_points == 1);
}
