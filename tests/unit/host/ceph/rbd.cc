// SPDX-License-Identifier: LGPL-2.1-or-later
// Run by tests/functional/ceph.py, on a cluster of its own (CEPH_CONF).
#include "host/ceph/rbd.hh"

#include "common/errors.hh"
#include "host/ceph/cluster.hh"

#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <future>
#include <random>
#include <thread>

using namespace stillpoint;

namespace {

constexpr std::uint64_t mib = 1 << 20;

std::unique_ptr<RbdPool> rbd_pool() {
  return connect_ceph({})->rbd_pool("rbd", "");
}

void finish(RbdImage& image) {
  while (image.in_flight() > 0)
    static_cast<void>(image.next(std::chrono::seconds(10)));
}

void fill(RbdImage& image, std::uint64_t offset, std::size_t length, char with) {
  const std::vector<std::byte> bytes(length, static_cast<std::byte>(with));
  image.start_write(bytes, offset, 1);
  finish(image);
}

std::vector<std::byte> contents(RbdImage& image) {
  std::vector<std::byte> all(image.size());
  constexpr std::size_t piece = 256 << 10;
  for (std::size_t at = 0; at < all.size(); at += piece)
    image.start_read(std::span(all).subspan(at, std::min(piece, all.size() - at)), at, at);
  std::size_t told = 0;
  while (image.in_flight() > 0)
    if (image.next(std::chrono::seconds(10))) ++told;
  CHECK(told == (all.size() + piece - 1) / piece);
  return all;
}

std::uint64_t id_of(RbdImage& image, const std::string& name) {
  for (const RbdSnapshot& snapshot : image.snapshots())
    if (snapshot.name == name || snapshot.group_snapshot == name) return snapshot.id;
  FAIL("no snapshot " << name);
  return 0;
}

/// Whether what changed() tells is enough to make `later` of `earlier`.
void check_changes(const std::vector<RbdChange>& changes, std::vector<std::byte> earlier,
                   const std::vector<std::byte>& later) {
  earlier.resize(later.size());
  for (const RbdChange& change : changes) {
    REQUIRE(change.offset + change.length <= later.size());
    const auto from = later.begin() + static_cast<std::ptrdiff_t>(change.offset);
    const auto to = earlier.begin() + static_cast<std::ptrdiff_t>(change.offset);
    if (change.exists)
      std::copy_n(from, change.length, to);
    else
      std::fill_n(to, change.length, std::byte{0});
  }
  CHECK(earlier == later);
}

}  // namespace

TEST_CASE("places of images are read and written") {
  CHECK(parse_rbd_place("a") == RbdPlace{"rbd", "", "a"});
  CHECK(parse_rbd_place("p/a") == RbdPlace{"p", "", "a"});
  CHECK(parse_rbd_place("p/n/a") == RbdPlace{"p", "n", "a"});
  CHECK(to_string(RbdPlace{"p", "n", "a"}) == "p/n/a");
  for (const char* bad : {"", "/", "p/", "/a", "p//a", "p/n/m/a", "p/a@s", "p/a:conf=/x"})
    CHECK_THROWS_AS(static_cast<void>(parse_rbd_place(bad)), UsageError);
}

TEST_CASE("what is not there is said") {
  const auto pool = rbd_pool();
  CHECK_THROWS_AS(static_cast<void>(connect_ceph({})->rbd_pool("nowhere", "")), NotFound);
  CHECK_THROWS_AS(static_cast<void>(pool->open("nothing", RbdAccess::read)), NotFound);
  CHECK(!pool->has("nothing"));
  CHECK_THROWS_AS(static_cast<void>(connect_ceph({.conf = "/nowhere/ceph.conf"})), ConfigError);
  CHECK_THROWS_AS(
      static_cast<void>(connect_ceph({.user = "nobody", .key = "AQA3C2RnAAAAABAAmSAvrYyTBMC7RA1kgWFzAA=="})),
      ConfigError);
  pool->remove("nothing");
}

TEST_CASE("an image is what was written, zeroed and resized, and its snapshots are what it was") {
  const auto pool = rbd_pool();
  pool->create("written", {.size = 32 * mib, .order = 20, .stripe_unit = 65536, .stripe_count = 4});
  try {
    pool->create("written", {.size = mib});
    FAIL("an image was made twice");
  } catch (const CephError& e) {
    CHECK(e.code() == EEXIST);
  }
  const auto image = pool->open("written", RbdAccess::write);
  const RbdFacts facts = image->facts();
  CHECK(facts.layout.order == 20);
  CHECK(facts.layout.stripe_unit == 65536);
  CHECK(facts.layout.stripe_count == 4);
  CHECK(facts.fast_diff);
  CHECK(!facts.parent);
  CHECK(facts.group.empty());
  std::vector<std::byte> expected(32 * mib);
  for (const auto& [offset, length, with] : {std::tuple(0UL, 3 * mib, 'a'), std::tuple(5 * mib + 17, 100UL, 'b')}) {
    fill(*image, offset, length, with);
    std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(offset), length, static_cast<std::byte>(with));
  }
  image->flush();
  image->create_snapshot("one");
  image->start_zero(mib, 2 * mib, 1);
  finish(*image);
  image->resize(16 * mib);
  CHECK(image->size() == 16 * mib);
  image->look_at(id_of(*image, "one"));
  CHECK(image->size() == 32 * mib);
  CHECK(contents(*image) == expected);
  image->look_at(0);
  std::fill_n(expected.begin() + mib, 2 * mib, std::byte{0});
  expected.resize(16 * mib);
  CHECK(contents(*image) == expected);
  CHECK_THROWS_AS(image->look_at(4711), NotFound);
  CHECK_THROWS_AS(static_cast<void>(image->changed("nosuch", 0, mib, false)), NotFound);

  image->set_metadata("a", "1");
  for (int i = 0; i < 150; ++i)
    image->set_metadata("key" + std::to_string(i), std::string(1000, 'x'));
  CHECK(image->metadata().size() == 151);
  image->remove_metadata("a");
  image->remove_metadata("a");
  CHECK(image->metadata().size() == 150);
  image->remove_snapshot("one");
  image->remove_snapshot("one");
  CHECK(image->snapshots().empty());
}

TEST_CASE("what changed is told, after discards too, and of clones") {
  std::mt19937_64 random(static_cast<std::uint64_t>(::getpid()));
  const auto pool = rbd_pool();
  pool->create("parent", {.size = 16 * mib, .order = 20});
  {
    const auto parent = pool->open("parent", RbdAccess::write);
    for (int i = 0; i < 6; ++i)
      fill(*parent, random() % (15 * mib), 65536, 'p');
    parent->create_snapshot("base");
  }
  for (const bool is_clone : {false, true}) {
    const std::string name = is_clone ? "clone" : "plain";
    if (is_clone)
      pool->clone("parent", "base", *pool, name);
    else
      pool->create(name, {.size = 16 * mib, .order = 20});
    const auto image = pool->open(name, RbdAccess::write);
    CHECK(image->facts().parent.has_value() == is_clone);
    std::vector<std::pair<std::string, std::vector<std::byte>>> taken;
    for (int round = 0; round < 8; ++round) {
      for (int i = 0; i < 5; ++i) {
        const std::uint64_t offset = random() % (14 * mib) / 4096 * 4096;
        if (random() % 3 == 0)
          image->start_zero(offset, (1 + random() % 300) * 4096, 1);
        else
          fill(*image, offset, (1 + random() % 30) * 4096, static_cast<char>('a' + round));
        finish(*image);
      }
      const std::string snapshot = "s" + std::to_string(round);
      image->create_snapshot(snapshot);
      image->look_at(id_of(*image, snapshot));
      const std::vector<std::byte> now = contents(*image);
      check_changes(image->changed("", 0, image->size(), false), std::vector<std::byte>(now.size()), now);
      check_changes(image->changed("", 0, image->size(), true), std::vector<std::byte>(now.size()), now);
      for (const auto& [earlier, was] : taken) {
        check_changes(image->changed(earlier, 0, image->size(), false), was, now);
        check_changes(image->changed(earlier, 0, image->size(), true), was, now);
      }
      taken.emplace_back(snapshot, now);
      image->look_at(0);
    }
  }
}

TEST_CASE("several images have one snapshot, which is read by its group") {
  const auto pool = rbd_pool();
  for (const char* name : {"g1", "g2"}) {
    pool->create(name, {.size = 8 * mib});
    fill(*pool->open(name, RbdAccess::write), 0, 4096, 'x');
  }
  pool->create_group("group");
  pool->add_to_group("group", *pool, "g1");
  pool->add_to_group("group", *pool, "g2");
  CHECK(pool->groups() == std::vector<std::string>{"group"});
  pool->snapshot_group("group", "instant");
  const auto image = pool->open("g1", RbdAccess::write);
  CHECK(image->facts().group == "group");
  image->create_snapshot("later");
  fill(*image, 0, 4096, 'y');
  image->look_at(id_of(*image, "instant"));
  CHECK(contents(*image)[0] == std::byte{'x'});
  const auto snapshots = image->snapshots();
  REQUIRE(snapshots.size() == 2);
  CHECK(snapshots[0].kind == RbdSnapshot::Kind::group);
  CHECK(snapshots[0].group == "group");
  CHECK(snapshots[1].kind == RbdSnapshot::Kind::user);
  image->look_at(0);
  pool->remove_group("group");
  pool->remove_group("group");
  CHECK(pool->groups().empty());
  CHECK(pool->open("g1", RbdAccess::read)->facts().group.empty());
}

TEST_CASE("whoever watches an image is asked before a snapshot, and can refuse it") {
  const auto pool = rbd_pool();
  pool->create("watched", {.size = 8 * mib});
  const auto watched = pool->open("watched", RbdAccess::write);
  const auto other = rbd_pool()->open("watched", RbdAccess::write);
  std::atomic<int> quiesced = 0;
  std::atomic<int> released = 0;
  std::atomic<int> error = 0;
  std::vector<std::jthread> answers;
  std::unique_ptr<QuiesceWatch> watch;
  watch = watched->watch({.quiesce =
                              [&] {
                                ++quiesced;
                                answers.emplace_back([&] { watch->answer(error); });
                              },
                          .unquiesce = [&] { ++released; }});
  other->create_snapshot("asked", true);
  CHECK(quiesced == 1);
  CHECK(released == 1);
  other->create_snapshot("not asked");
  CHECK(quiesced == 1);
  error = EBUSY;
  CHECK_THROWS_AS(other->create_snapshot("refused", true), CephError);
  CHECK(quiesced == 2);
  watch.reset();
  other->create_snapshot("nobody there", true);
  CHECK(quiesced == 2);
}

TEST_CASE("a watch ends only when it has answered") {
  const auto pool = rbd_pool();
  pool->create("left", {.size = 8 * mib});
  const auto watched = pool->open("left", RbdAccess::write);
  const auto other = rbd_pool()->open("left", RbdAccess::write);
  std::promise<void> asked;
  auto watch = watched->watch({[&] { asked.set_value(); }, [] {}});
  const std::jthread taker([&] { CHECK_THROWS_AS(other->create_snapshot("refused", true), CephError); });
  asked.get_future().wait();
  const std::jthread answer([late = watch.get()] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    late->answer(EBUSY);
  });
  watch.reset();
}

TEST_CASE("pools, namespaces and features are read") {
  CHECK(parse_rbd_pool("p", false) == RbdPlace{"p", "", ""});
  CHECK(parse_rbd_pool("p/n", false) == RbdPlace{"p", "n", ""});
  CHECK(parse_rbd_pool("p", true) == RbdPlace{"p", "", ""});
  CHECK(parse_rbd_pool("p/i", true) == RbdPlace{"p", "", "i"});
  CHECK(parse_rbd_pool("p/n/", true) == RbdPlace{"p", "n", ""});
  CHECK(parse_rbd_pool("p/n/i", true) == RbdPlace{"p", "n", "i"});
  for (const char* bad : {"", "/", "p/", "p//", "/n", "p/n/i", "p@s", "p:conf=/x"})
    CHECK_THROWS_AS(static_cast<void>(parse_rbd_pool(bad, false)), UsageError);
  for (const char* bad : {"", "/", "p//i", "p//", "p/n/m/i", "p/i@s"})
    CHECK_THROWS_AS(static_cast<void>(parse_rbd_pool(bad, true)), UsageError);
  CHECK(parse_rbd_features({"layering", "exclusive-lock", "object-map"}) == 13);
  CHECK_THROWS_AS(static_cast<void>(parse_rbd_features({"layering", "object-map"})), UsageError);
}

TEST_CASE("a copy is laid out as its source where nothing else is asked for") {
  constexpr std::uint64_t journaling_and_data_pool = 64 + 128;
  const RbdLayout source{
      .order = 20, .features = 13 + journaling_and_data_pool, .stripe_unit = 65536, .stripe_count = 4};
  CHECK(completed({}, {}) == RbdLayout{.order = 22});
  CHECK(completed({}, source) == RbdLayout{.order = 20, .features = 13, .stripe_unit = 65536, .stripe_count = 4});
  CHECK(completed({.order = 15, .features = 1}, source) == RbdLayout{.order = 15, .features = 1});
  CHECK(completed({.stripe_unit = 4096, .stripe_count = 2}, source) ==
        RbdLayout{.order = 20, .features = 13, .stripe_unit = 4096, .stripe_count = 2});
  // As librbd tells it of an image without stripes.
  const RbdLayout plain{.order = 22, .features = 0, .stripe_unit = 4 << 20, .stripe_count = 1};
  CHECK(completed({}, plain) == RbdLayout{.order = 22});
  CHECK(completed({.order = 25}, plain) == RbdLayout{.order = 25});
  for (const RbdLayout& none : {RbdLayout{.order = 64, .stripe_unit = 3, .stripe_count = 7},
                                RbdLayout{.order = 11, .stripe_unit = 4096, .stripe_count = std::uint64_t{1} << 32},
                                RbdLayout{.stripe_unit = 0, .stripe_count = 4}})
    CHECK(completed({}, none) == RbdLayout{.order = 22});
  CHECK_THROWS_AS(static_cast<void>(completed({.stripe_unit = 2 << 20, .stripe_count = 2}, source)), UsageError);
}

TEST_CASE("an image is locked, watched, renamed and cloned") {
  const auto pool = rbd_pool();
  pool->create("held", {.size = 4 * mib});
  {
    const auto image = pool->open("held", RbdAccess::write);
    const auto reader = pool->open("held", RbdAccess::read);
    CHECK(reader->watchers().size() == 1);
    {
      const auto lock = image->lock();
      lock->check();
      CHECK_THROWS_AS(static_cast<void>(reader->lock()), Locked);
      // Our lock is none of librbd's.
      fill(*image, 0, 100, 'a');
    }
    const auto again = reader->lock();
    CHECK(reader->clones().empty());
    image->create_snapshot("s");
  }
  CHECK(pool->open("held", RbdAccess::read)->watchers().empty());
  pool->clone("held", "s", *pool, "clone-of-held");
  {
    const auto image = pool->open("held", RbdAccess::write);
    image->look_at(id_of(*image, "s"));
    CHECK(image->clones() == std::vector<RbdPlace>{{"rbd", "", "clone-of-held"}});
    image->look_at(0);
    pool->remove("clone-of-held");
    image->remove_snapshot("s");
  }
  pool->rename("held", "let-go");
  CHECK(!pool->has("held"));
  pool->create("held", {.size = mib});
  CHECK_THROWS_AS(pool->rename("let-go", "held"), CephError);
  pool->remove("held");
  pool->remove("let-go");
}
