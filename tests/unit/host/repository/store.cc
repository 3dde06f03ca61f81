// SPDX-License-Identifier: LGPL-2.1-or-later
// What every store does, on the one that STILLPOINT_TEST_STORE names (support.hh), else on a directory.
#include "host/repository/store.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "host/repository/rados-entry.hh"
#include "host/repository/rados-store.hh"
#include "tests/unit/host/repository/support.hh"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <thread>

using namespace stillpoint;
using namespace stillpoint::test;

namespace {

struct OpenedStore {
  Scratch scratch;
  std::unique_ptr<Store> store = open_store(scratch.repository(), StoreAccess::create);

  [[nodiscard]] std::set<std::string> names(std::string_view prefix) const {
    std::set<std::string> found;
    for (const ObjectInfo& object : store->list(prefix))
      found.insert(object.name);
    return found;
  }
  [[nodiscard]] std::string text(const std::string& name) const { return store->get(name, 1 << 20); }
};

using Names = std::set<std::string>;

}  // namespace

TEST_CASE("a store gives back what it was given, by name and by range") {
  OpenedStore opened;
  Store& store = *opened.store;
  CHECK(!store.exists("config"));
  CHECK_THROWS_AS(static_cast<void>(store.reader("config")), NotFound);
  CHECK_THROWS_AS(static_cast<void>(store.reader("packs/ab/none")), NotFound);
  CHECK(store.list("packs").empty());
  // Nothing, little, more than a document, several pieces.
  for (const std::size_t length : {std::size_t{0}, std::size_t{5}, std::size_t{20000}, std::size_t{9 << 20} + 3}) {
    CAPTURE(length);
    const Bytes content = random_bytes(length, length);
    const std::string name = "packs/" + std::to_string(length % 7) + "/" + std::to_string(length);
    const WallTime before = wall_now() - std::chrono::seconds(2);
    {
      const std::unique_ptr<ObjectWriter> object = store.writer(name);
      for (std::size_t at = 0; at < length; at += 1000003)
        object->append(std::span(content).subspan(at, std::min<std::size_t>(1000003, length - at)));
      CHECK(!store.exists(name));
      CHECK(!opened.names("packs").contains(name));
      object->commit();
    }
    CHECK(store.exists(name));
    const std::unique_ptr<ObjectReader> reader = store.reader(name);
    CHECK(reader->size() == length);
    Bytes all(length);
    reader->read(0, all);
    CHECK((all == content));
    CHECK(std::ranges::equal(store.view(name)->bytes(), content));
    if (length > 0) {
      // Over a border between pieces, where there is one; the last byte.
      const std::size_t at = length / 2 - 1;
      Bytes part(std::min<std::size_t>(length - at, 3 << 20));
      reader->read(at, part);
      CHECK(std::memcmp(part.data(), content.data() + at, part.size()) == 0);
      reader->read(length - 1, std::span(part).first(1));
      CHECK(part[0] == content.back());
    }
    Bytes more(2);
    CHECK_THROWS_AS(reader->read(length == 0 ? 0 : length - 1, more), Corruption);
    CHECK_THROWS_AS(reader->read(length + 10, more), Corruption);
    const std::vector<ObjectInfo> listed = store.list("packs/" + std::to_string(length % 7));
    const auto found = std::ranges::find(listed, name, &ObjectInfo::name);
    REQUIRE(found != listed.end());
    CHECK(found->size == length);
    CHECK(found->modified >= before);
    CHECK(found->modified <= wall_now());
  }
  CHECK(opened.names("packs").size() == 4);
  CHECK_THROWS_AS(static_cast<void>(store.get("packs/1/20000", 100)), Corruption);
  for (const std::string& name : opened.names("packs")) {
    store.remove(name);
    store.remove(name);
    CHECK(!store.exists(name));
  }
  CHECK(store.list("packs").empty());
  CHECK(store.list("tmp").empty());
}

TEST_CASE("a store never puts one object in another's place") {
  OpenedStore opened;
  Store& store = *opened.store;
  store.put("config", as_bytes("first"));
  CHECK_THROWS_AS(store.put("config", as_bytes("second")), StorageError);
  CHECK(opened.text("config") == "first");
  // Of many that want one name, one gets it.
  std::atomic<int> got{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back([&] {
        try {
          store.put("manifests/web.1/now", as_bytes("mine"));
          ++got;
        } catch (const StorageError&) {
        }
      });
  }
  CHECK(got == 1);
  CHECK(store.list("tmp").empty());
}

TEST_CASE("what was not committed is not there") {
  OpenedStore opened;
  Store& store = *opened.store;
  const Bytes content = random_bytes(5 << 20, 1);
  {
    const std::unique_ptr<ObjectWriter> object = store.writer("packs/ab/abandoned");
    object->append(content);
  }
  CHECK(store.list("packs").empty());
  CHECK(store.list("tmp").empty());
}

TEST_CASE("whoever lost the lease that he worked under cannot commit") {
  OpenedStore opened;
  Store& store = *opened.store;
  const std::string lease = random_id();
  const std::string other = random_id();
  const Bytes content = random_bytes(5 << 20, 2);
  const std::unique_ptr<Store> second = open_store(opened.scratch.repository(), StoreAccess::write);
  store.work_under(lease);
  second->work_under(other);
  const std::unique_ptr<ObjectWriter> manifest = store.writer("manifests/web.1%/now");
  const std::unique_ptr<ObjectWriter> pack = store.writer("packs/ab/pack");
  const std::unique_ptr<ObjectWriter> others = second->writer("packs/ab/others");
  manifest->append(as_bytes("small"));
  pack->append(content);
  others->append(content);
  const auto unfinished = opened.names("tmp");
  CHECK(unfinished.size() == 3);
  for (const std::string& name : unfinished) {
    const std::string holder = name.substr(4, name.find('.') - 4);
    CHECK((holder == lease || holder == other));
  }
  second->drop_unfinished(lease);
  CHECK_THROWS_AS(manifest->commit(), StorageError);
  CHECK_THROWS_AS(pack->commit(), StorageError);
  others->commit();
  CHECK(opened.names("packs") == Names{"packs/ab/others"});
  CHECK(store.list("manifests").empty());
  // What a sweep finds it can remove, by the names that it was told: twice, where a store keeps a note of the first.
  for (int look = 0; look < 2; ++look)
    for (const std::string& name : opened.names("tmp")) {
      CHECK(name.find('.') == std::string::npos);
      store.remove(name);
    }
  CHECK(store.list("tmp").empty());
  Bytes all(content.size());
  store.reader("packs/ab/others")->read(0, all);
  CHECK((all == content));
}

TEST_CASE("a sweep removes what a dead writer has left") {
  OpenedStore opened;
  Store& store = *opened.store;
  store.work_under(random_id());
  const std::unique_ptr<ObjectWriter> pack = store.writer("packs/ab/pack");
  pack->append(random_bytes(9 << 20, 3));
  const auto left = opened.names("tmp");
  REQUIRE(left.size() == 1);
  store.remove(*left.begin());
  CHECK_THROWS_AS(pack->commit(), StorageError);
}

TEST_CASE("a store's lock is one's") {
  OpenedStore opened;
  const std::unique_ptr<Store> second = open_store(opened.scratch.repository(), StoreAccess::write);
  std::unique_ptr<StoreLock> lock = opened.store->try_lock("cluster-01");
  CHECK(lock != nullptr);
  CHECK(second->try_lock("cluster-01") == nullptr);
  CHECK(opened.store->try_lock("cluster-01") == nullptr);
  CHECK(second->try_lock("cluster-02") != nullptr);
  lock.reset();
  CHECK(second->try_lock("cluster-01") != nullptr);
}

TEST_CASE("rados urls are read strictly") {
  const RadosAddress all{"po ol", "web&1", "/etc/ceph/c.conf", "back?up", "erasure"};
  const std::string url = to_url(all);
  CHECK(url == "rados://po%20ol/web%261?conf=/etc/ceph/c.conf&id=back%3Fup&data-pool=erasure");
  CHECK(parse_rados_address(url.substr(8)) == all);
  CHECK(parse_rados_address("p") == RadosAddress{"p", "", "", "", ""});
  CHECK(to_url(parse_rados_address("p/n")) == "rados://p/n");
  CHECK(parse_rados_address("p?conf=x").conf.starts_with('/'));
  for (const char* text : {"", "/n", "?id=x", "p/", "p/a/b", "p?id", "p?id=", "p?user=x", "p?id=a&id=b", "p?keyring=x",
                           "p%2", "p%zz", "p%00", "p?conf=%"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(static_cast<void>(parse_rados_address(text)), ConfigError);
  }
}

TEST_CASE("a damaged entry of a folder is no object") {
  const std::string id(32, 'a');
  const RadosEntry entry{id, 9 << 20, 4 << 20, WallTime(std::chrono::microseconds(1764166989000001))};
  const std::string text = to_string(entry);
  const auto again = parse_rados_entry(text);
  REQUIRE(again);
  CHECK(again->id == id);
  CHECK(again->pieces() == 3);
  CHECK(again->modified == entry.modified);
  for (std::size_t length = 0; length < text.size() - 16; ++length)
    CHECK(!parse_rados_entry(text.substr(0, length)));
  for (const char* tail : {" 1 0 -1", " 99999999999999999999 0 1", " 1 1 1", " 1 0 1 ", " 1 0 1 1", " 1 0 1x",
                           "  1 0 1", " 9999999999999 4194304 1", " 1 0 999999999999999999"})
    CHECK(!parse_rados_entry(id + tail));
  const RadosRemnant remnant{"manifests/web.1@%2e", std::string(32, 'b'), id};
  const auto parsed = parse_rados_remnant(to_string(remnant));
  REQUIRE(parsed);
  CHECK(parsed->folder == remnant.folder);
  CHECK(parsed->lease == remnant.lease);
  CHECK(parsed->id == id);
  CHECK(to_string(RadosNote{entry.modified}) == "1764166989000001");
  for (const std::optional<std::uint64_t> pieces : {std::optional<std::uint64_t>(), std::optional<std::uint64_t>(17)}) {
    const auto note = parse_rados_note(to_string(RadosNote{entry.modified, pieces}));
    REQUIRE(note);
    CHECK(note->since == entry.modified);
    CHECK(note->pieces == pieces);
  }
  for (const char* damaged : {"", "x", " ", "1 ", "1 x", "1 2 3", " 1", "-1", "1 999999999999", "999999999999999999"})
    CHECK(!parse_rados_note(damaged));
  for (const char* name : {"tmp/", "tmp/x@packs", "packs/ab/x", "tmp/x", "tmp/.@x"})
    CHECK(!parse_rados_remnant(name));
}
