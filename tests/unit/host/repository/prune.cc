// SPDX-License-Identifier: LGPL-2.1-or-later
#include "common/errors.hh"
#include "common/file.hh"
#include "host/repository/append-only-store.hh"
#include "host/repository/doom.hh"
#include "host/repository/lease.hh"
#include "host/repository/repository.hh"
#include "tests/unit/host/repository/faulty-store.hh"
#include "tests/unit/host/repository/support.hh"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <csignal>
#include <fstream>
#include <iterator>
#include <optional>
#include <thread>
#include <vector>

using namespace stillpoint;
using namespace stillpoint::test;
namespace fs = std::filesystem;

namespace {

Repository open(const Sample& sample, Repository::Mode mode = Repository::Mode::write) {
  return Repository(sample.scratch.repository(), mode);
}

/// Another still point of the domain, of a disk of its own.
struct Other {
  Bytes disk;
  std::string name;
  Other(const Sample& sample, std::uint64_t seed, std::string_view time) : disk(text_bytes(6 * small_chunks, seed)) {
    Repository repository = open(sample);
    name = commit(repository, "web1", write_whole(repository, disk), std::nullopt, time).name;
  }
};

bool reads(const Sample& sample, const std::string& name, const Bytes& disk) {
  Repository repository = open(sample, Repository::Mode::read);
  return read_whole(repository, repository.load(name).disks.at(0).map) == disk;
}

bool whole(const Sample& sample) {
  Repository repository = open(sample);
  return is_whole(repository);
}

std::size_t packs(const Sample& sample) {
  return files_below(sample.root() / "packs").size();
}

/// False when another one works there.
bool prunes(const Sample& sample) {
  try {
    static_cast<void>(open(sample).reclaim({}));
    return true;
  } catch (const Locked&) {
    return false;
  }
}

}  // namespace

TEST_CASE("what no still point needs is deleted, and the rest is as it was") {
  const Sample sample;
  const Other other(sample, 7, "2026-11-23T08:20:11Z");
  CHECK(packs(sample) == 2);
  ReclaimOptions options;
  CHECK(open(sample).reclaim(options).packs_deleted == 0);
  open(sample).remove(sample.manifest.name);
  options.dry_run = true;
  const ReclaimResult dry = open(sample, Repository::Mode::read).reclaim(options);
  CHECK(packs(sample) == 2);
  options.dry_run = false;
  const ReclaimResult result = open(sample).reclaim(options);
  CHECK(result.packs_deleted == 1);
  CHECK(result.packs_deleted == dry.packs_deleted);
  CHECK(result.bytes_deleted == dry.bytes_deleted);
  CHECK(packs(sample) == 1);
  CHECK(files_below(sample.root() / "doomed").empty());
  CHECK(files_below(sample.root() / "locks").empty());
  CHECK(whole(sample));
  CHECK(reads(sample, other.name, other.disk));
  CHECK(open(sample).list("web1").size() == 1);
}

TEST_CASE("a domain's state is needed, damaged and known by older programs as such") {
  const Quiet quiet;
  const Sample sample;
  const Bytes state = random_bytes(100000, 9);
  Manifest manifest = sample.manifest;
  manifest.name.clear();
  manifest.id = std::string(32, 'b');
  {
    // In a pack of its own.
    Repository repository = open(sample);
    manifest.state.push_back({.kind = StateRecord::Kind::nvram,
                              .name = "nvram",
                              .source = {},
                              .owner = {},
                              .map = write_stream(repository, state),
                              .stored = 0,
                              .failure = {}});
    repository.commit(manifest);
  }
  CHECK(fs::exists(sample.root() / "features/ro_compat.state"));
  REQUIRE(packs(sample) == 2);
  CHECK(open(sample).reclaim({}).packs_deleted == 0);
  Repository repository = open(sample);
  CHECK(stillpoint::test::read_stream(repository, repository.load(manifest.name).state.at(0).map) == state);
  CHECK(whole(sample));
  const ChunkId lost = manifest.state[0].map.root;
  manifest.state[0].map.root = sample.manifest.disks[0].map.root;
  manifest.name.clear();
  manifest.instant += std::chrono::seconds(5);
  open(sample).commit(manifest);
  CHECK(lost != manifest.state[0].map.root);
  const VerifyResult result = open(sample).verify({manifest.name}, {});
  REQUIRE(result.damaged.size() == 1);
  CHECK(result.damaged[0].reasons.at(0).starts_with("nvram nvram:"));
}

TEST_CASE("a pack of which little is needed is written anew") {
  Sample sample;
  Repository repository = open(sample);
  Bytes disk(sample.disk.size());
  std::copy_n(sample.disk.begin(), small_chunks, disk.begin());  // the first chunk only
  const std::string name =
      commit(repository, "web1", write_whole(repository, disk), std::nullopt, "2026-11-23T08:20:11Z").name;
  repository.remove(sample.manifest.name);
  const ReclaimResult result = repository.reclaim({});
  CHECK(result.packs_deleted == 1);
  CHECK(result.bytes_rewritten > 0);
  CHECK(result.bytes_rewritten < result.bytes_deleted / 2);
  CHECK(whole(sample));
  CHECK(reads(sample, name, disk));
}

TEST_CASE("prune waits for those who began before, and those who began later rely on nothing that goes") {
  const Quiet quiet;
  Sample sample;
  const Other other(sample, 7, "2026-11-23T08:20:11Z");
  std::optional<Repository> before(open(sample));
  // It has the index from now on, and takes the chunks of the still point that goes for stored.
  const DiskMap early = write_whole(*before, sample.disk);
  open(sample).remove(sample.manifest.name);
  CHECK(open(sample).reclaim({}).packs_waiting == 0);  // it could be what the running one has just written
  CHECK(packs(sample) == 2);
  make_packs_old(sample.root());
  ReclaimResult result = open(sample).reclaim({});
  CHECK(result.packs_waiting == 1);
  CHECK(result.waits_for.size() == 1);
  CHECK(packs(sample) == 2);

  Repository after = open(sample);
  StoredCounts counts;
  const DiskMap late = write_whole(after, sample.disk, &counts);
  CHECK(counts.new_chunks > 0);
  SUBCASE("the early one commits first") {
    const std::string a = commit(*before, "web1", early, std::nullopt, "2026-11-24T01:00:00Z").name;
    before.reset();
    result = open(sample).reclaim({});  // `after` still works, but it knows of the doom
    CHECK(result.packs_waiting == 0);
    const std::string b = commit(after, "web1", late, std::nullopt, "2026-11-24T02:00:00Z").name;
    CHECK(reads(sample, a, sample.disk));
    CHECK(reads(sample, b, sample.disk));
    result = after.reclaim({});
    CHECK(result.packs_waiting == 0);
    CHECK(reads(sample, a, sample.disk));
    CHECK(reads(sample, b, sample.disk));
  }
  SUBCASE("the early one commits while prune waits") {
    const std::string b = commit(after, "web1", late, std::nullopt, "2026-11-24T02:00:00Z").name;
    std::string a;
    std::jthread committer([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      a = commit(*before, "web1", early, std::nullopt, "2026-11-24T01:00:00Z").name;
      before.reset();
    });
    ReclaimOptions patient;
    patient.patience = std::chrono::seconds(30);
    result = after.reclaim(patient);
    committer.join();
    CHECK(result.packs_waiting == 0);
    CHECK(reads(sample, a, sample.disk));
    CHECK(reads(sample, b, sample.disk));
  }
  SUBCASE("the early one gives up") {
    before.reset();
    const std::string b = commit(after, "web1", late, std::nullopt, "2026-11-24T02:00:00Z").name;
    result = after.reclaim({});
    CHECK(result.packs_waiting == 0);
    CHECK(result.packs_deleted > 0);
    CHECK(reads(sample, b, sample.disk));
  }
  CHECK(files_below(sample.root() / "doomed").empty());
  CHECK(whole(sample));
  CHECK(reads(sample, other.name, other.disk));
}

TEST_CASE("whoever is dead holds nothing, and whoever was fenced commits nothing") {
  const Quiet quiet;
  Sample sample;
  const pid_t child = ::fork();
  if (child == 0) {
    Repository repository = open(sample);
    static_cast<void>(write_whole(repository, text_bytes(3 * small_chunks, 99)));
    ::raise(SIGKILL);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  CHECK(files_below(sample.root() / "locks").size() == 1);
  CHECK(!files_below(sample.root() / "tmp").empty());
  const Other other(sample, 7, "2026-11-23T08:20:11Z");
  open(sample).remove(sample.manifest.name);
  CHECK(open(sample).reclaim({}).packs_waiting == 0);
  CHECK(files_below(sample.root() / "locks").empty());
  CHECK(files_below(sample.root() / "tmp").empty());

  Repository stale = open(sample);
  const DiskMap map = write_whole(stale, sample.disk);
  const std::unique_ptr<Store> store = open_store(sample.scratch.repository(), StoreAccess::write);
  const std::vector<HeldLease> held = held_leases(*store);
  REQUIRE(held.size() == 1);
  CHECK(!held[0].expired);
  CHECK(open(sample).oldest_work() <= held[0].started + std::chrono::seconds(1));
  fence(*store, held[0]);
  CHECK_THROWS_AS(commit(stale, "web1", map, std::nullopt, "2026-11-24T02:00:00Z"), Locked);
  CHECK(open(sample).list("web1").size() == 1);
  CHECK(whole(sample));
}

TEST_CASE("whoever begins while a prune looks around keeps what he has begun") {
  const Quiet quiet;
  const Bytes disk = text_bytes(6 * small_chunks, 7);
  std::uint64_t looks = 1;
  for (std::uint64_t at = 1; at <= looks; ++at) {
    CAPTURE(at);
    const Sample sample;
    std::optional<Repository> writer;
    DiskMap map;
    std::uint64_t look = 0;
    const auto begin = [&](FaultyStore::Step step, std::uint64_t /*number*/) {
      if (step != FaultyStore::Step::look || ++look != at) return;
      writer.emplace(open(sample));
      map = write_whole(*writer, disk);
    };
    {
      const auto store =
          std::make_shared<FaultyStore>(open_store(sample.scratch.repository(), StoreAccess::write), begin);
      Repository repository(store, Repository::Mode::write);
      static_cast<void>(repository.reclaim({}));
    }
    looks = look;
    REQUIRE(writer);
    const std::string name = commit(*writer, "web1", map, std::nullopt, "2026-11-24T02:00:00Z").name;
    writer.reset();
    CHECK(reads(sample, name, disk));
    CHECK(whole(sample));
  }
  CHECK(looks > 5);
}

TEST_CASE("a lease is renewed though the store failed with what it had done, and leaves nothing") {
  const Quiet quiet;
  const Scratch scratch;
  Repository::create(scratch.repository(), {});
  std::atomic<int> written = 0;
  FaultyStore* faulty = nullptr;
  const auto fail = [&](FaultyStore::Step step, std::uint64_t /*number*/) {
    if (step != FaultyStore::Step::changed || !faulty->just_committed().starts_with("locks/")) return;
    if (const int number = ++written; number > 1 && number < 4) throw StorageError("no answer");
  };
  const auto store = std::make_shared<FaultyStore>(open_store(scratch.repository(), StoreAccess::write), fail);
  faulty = store.get();
  {
    Lease lease(store, Lease::Kind::shared, std::chrono::milliseconds(5));
    for (int look = 0; look < 2000 && written < 6; ++look)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK(written >= 6);
    CHECK_NOTHROW(lease.check());
  }
  CHECK(store->list("locks").empty());
}

TEST_CASE("two prunes do not run at once") {
  const Sample sample;
  const std::shared_ptr<Store> store = open_store(sample.scratch.repository(), StoreAccess::write);
  std::optional<Lease> other;
  // Of a least id: with another, ours might wait ten seconds for it to go.
  do
    other.emplace(store, Lease::Kind::exclusive);
  while (!other->id().starts_with('0'));
  CHECK_THROWS_AS(open(sample).reclaim({}), Locked);
  other.reset();
  CHECK(open(sample).reclaim({}).packs_deleted == 0);
}

TEST_CASE("of prunes that begin together one goes on, and one that runs is ended by none that comes") {
  const Quiet quiet;
  const Sample sample;
  for (int round = 0; round < 10; ++round) {
    std::atomic<int> ended = 0;
    std::barrier begin(3);
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 3; ++thread)
      threads.emplace_back([&] {
        begin.arrive_and_wait();
        if (prunes(sample)) ++ended;
      });
    threads.clear();
    CHECK(ended > 0);
  }
}

TEST_CASE("a prune on the server's own disk knows of hosts that write over a network") {
  const Sample sample;
  CHECK(open_store(sample.scratch.repository(), StoreAccess::read)->visibility().count() == 0);
  std::ofstream(sample.root() / "network");
  CHECK(open_store(sample.scratch.repository(), StoreAccess::read)->visibility().count() == 60);
}

TEST_CASE("no doom is too long for a Ceph pool that is full") {
  const Scratch scratch;
  Repository::create(scratch.repository(), {});
  const std::unique_ptr<Store> store = open_store(scratch.repository(), StoreAccess::write);
  std::vector<PackId> wanted(1001);
  for (PackId& pack : wanted)
    pack = random_pack_id();
  std::vector<PackId> read;
  for (const std::string& doom : write_dooms(*store, wanted)) {
    CHECK(store->reader(doom)->size() <= 16 << 10);
    std::ranges::copy(read_doom(*store, doom), std::back_inserter(read));
  }
  CHECK(read == wanted);
  CHECK(write_dooms(*store, {}).empty());
}

TEST_CASE("tables that writers who may only add have left are merged") {
  const Sample sample;
  const std::shared_ptr<Store> store = open_store(sample.scratch.repository(), StoreAccess::write);
  for (int writer = 0; writer < 40; ++writer) {
    Repository repository(std::make_shared<AppendOnlyStore>(open_store(sample.scratch.repository(), StoreAccess::write),
                                                            std::vector<std::string>{}),
                          Repository::Mode::write);
    const DiskMap map =
        write_whole(repository, random_bytes(5 * small_chunks, 1000 + static_cast<std::uint64_t>(writer)));
    const WallTime time = wall_now() + std::chrono::seconds(writer);
    static_cast<void>(commit(repository, "web1", map, std::nullopt, format_time(time)));
  }
  CHECK(store->list("index").size() > 40);
  CHECK(open(sample).reclaim({}).packs_waiting == 0);
  CHECK(store->list("index").size() < 8);
  CHECK(whole(sample));
}

TEST_CASE("many prunes and backups at once: some are told to wait, and nothing is lost") {
  const Quiet quiet;
  const Sample sample;
  std::atomic<int> ended = 0;
  std::atomic<int> locked = 0;
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 3; ++thread)
      threads.emplace_back([&, thread] {
        for (int round = 0; round < 4; ++round) {
          try {
            const Other other(sample, static_cast<std::uint64_t>(10 * thread + round),
                              fmt::format("2026-11-2{}T0{}:20:11Z", thread + 3, round));
            if (round % 2 == 0) open(sample).remove(other.name);
            (prunes(sample) ? ended : locked)++;
          } catch (const std::exception& error) {
            FAIL_CHECK(std::string(error.what()));
          }
        }
      });
  }
  CHECK(ended + locked == 12);
  CHECK(ended > 0);
  CHECK(whole(sample));
  CHECK(open(sample).list("web1").size() == 1 + 3 * 2);
  CHECK(reads(sample, sample.manifest.name, sample.disk));
  make_packs_old(sample.root());
  CHECK(open(sample).reclaim({}).waits_for.empty());
  CHECK(whole(sample));
}

TEST_CASE("a lease that cannot be read counts as held") {
  const Quiet quiet;
  const Sample sample;
  const Other other(sample, 7, "2026-11-23T08:20:11Z");
  make_packs_old(sample.root());
  open(sample).remove(other.name);
  const fs::path lease = sample.root() / "locks" / ("shared-" + random_id() + ".0");
  std::ofstream(lease) << "what is this?";
  CHECK(open(sample).reclaim({}).packs_deleted == 0);
  CHECK(packs(sample) == 2);
  // Nobody knows since when its holder works.
  CHECK(open(sample).oldest_work() == WallTime{});
  CHECK(fs::exists(lease));
  fs::last_write_time(lease, fs::last_write_time(lease) - std::chrono::hours(1));
  CHECK(open(sample).oldest_work() + std::chrono::minutes(1) > wall_now());
  CHECK(!fs::exists(lease));
  CHECK(open(sample).reclaim({}).packs_deleted == 1);
  CHECK(whole(sample));
}

TEST_CASE("what cannot be read deletes nothing") {
  const Quiet quiet;
  Sample sample;
  const Other other(sample, 7, "2026-11-23T08:20:11Z");
  open(sample).remove(sample.manifest.name);
  const fs::path manifest = only_file(sample.root() / "manifests");
  flip(manifest, 200, std::byte{1});
  CHECK_THROWS_AS(open(sample).reclaim({}), Corruption);
  CHECK(packs(sample) == 2);
  flip(manifest, 200, std::byte{1});
  CHECK(open(sample).reclaim({}).packs_deleted == 1);
}

TEST_CASE("what NFS leaves of files that were deleted while they were open is no object") {
  const Sample sample;
  const Other other(sample, 7, "2026-11-23T08:20:11Z");
  open(sample).remove(other.name);
  make_packs_old(sample.root());
  std::vector<fs::path> left;
  for (const char* folder : {"manifests/web1", "packs/ab", "index", "tmp", "locks", "doomed", "quarantine"}) {
    fs::create_directories(sample.root() / folder);
    left.push_back(sample.root() / folder / ".nfs000000000000a01500000001");
    std::ofstream(left.back()) << "somebody has it open";
  }
  CHECK(whole(sample));
  CHECK(open(sample).reclaim({}).packs_deleted == 1);
  CHECK(open(sample).list().size() == 1);
  CHECK(open(sample).rebuild_index() == 1);
  CHECK(whole(sample));
  // They go with who has them open: to delete one only gives it another name.
  for (const fs::path& path : left)
    CHECK(fs::exists(path));
}

TEST_CASE("a name that another object has is refused, and one that the object has got already is not") {
  const Sample sample;
  const std::unique_ptr<Store> store = open_store(sample.scratch.repository(), StoreAccess::write);
  const std::string text = "an answer that got lost";
  const std::unique_ptr<ObjectWriter> object = store->writer("index/lost");
  object->append(as_bytes(text));
  // As an NFS server does that is restarted before it answers.
  fs::create_hard_link(only_file(sample.root() / "tmp"), sample.root() / "index/lost");
  object->commit();
  CHECK(store->get("index/lost", 100) == text);
  CHECK(files_below(sample.root() / "tmp").empty());
  CHECK_THROWS_AS(store->put("index/lost", as_bytes(text)), StorageError);
  CHECK(files_below(sample.root() / "tmp").empty());
  CHECK(store->get("index/lost", 100) == text);
}

TEST_CASE("protected still points stay") {
  const Sample sample;
  Repository repository = open(sample);
  const std::string& name = sample.manifest.name;
  repository.protect(name, true);
  repository.protect("web1@latest", true);
  CHECK(repository.is_protected(name));
  CHECK_THROWS_AS(repository.remove(name), UsageError);
  CHECK(repository.retention({}, {}).at(0).kept_by == std::vector<std::string>{"protected"});
  repository.protect(name, false);
  CHECK(repository.retention({}, {"web1"}).at(0).kept_by.empty());
  CHECK_THROWS_AS(static_cast<void>(repository.retention({}, {"web2"})), NotFound);
  repository.remove(name);
  CHECK_THROWS_AS(repository.remove(name), NotFound);
}

TEST_CASE("a still point that has another one's id does not stand for it") {
  const Quiet quiet;
  const Sample sample;
  {
    Repository repository = open(sample);
    // Of some of them the listing comes first.
    for (int i = 0; i < 12; ++i) {
      Manifest forged = sample.manifest;
      forged.domain = fmt::format("forged{}", i);
      forged.name = forged.domain + "@2026-11-22T08:20:11Z";
      forged.disks.clear();
      forged.dumps.clear();
      repository.commit(forged);
    }
  }
  make_packs_old(sample.root());
  static_cast<void>(open(sample).reclaim({}));
  CHECK(sample.reads());
  CHECK(whole(sample));
}
