// SPDX-License-Identifier: LGPL-2.1-or-later
// Every step of backup, prune and rebuild in turn is where the process dies, or the store fails. What was acknowledged
// before must come back, and the next backup and prune must work.
#include "common/errors.hh"
#include "host/repository/repository.hh"
#include "tests/unit/host/repository/faulty-store.hh"
#include "tests/unit/host/repository/support.hh"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>

using namespace stillpoint;
using namespace stillpoint::test;
namespace fs = std::filesystem;

namespace {

enum class Kind {
  none,
  die,
  fail_change,
  fail_read,
  tear,    ///< power fails, and of the object that was just made there is half
  lose,    ///< power fails, and the object that was just made is not there
  forget,  ///< power fails, and of everything that is not synced there is what chance has left
};

/// What a disk that lies about its syncs leaves of a file.
[[noreturn]] void lose_power(const fs::path& object, Kind kind) {
  if (kind == Kind::lose)
    fs::remove(object);
  else
    fs::resize_file(object, fs::file_size(object) / 2);
  ::_exit(1);
}

/// Index tables and leases, of all ages: gone, empty, cut short, of zeros, half of zeros, or as they were.
[[noreturn]] void lose_unsynced(const fs::path& repository, std::uint64_t seed) {
  for (const char* folder : {"index", "locks"})
    for (const fs::path& object : files_below(repository / folder)) {
      const std::uint64_t size = fs::file_size(object);
      switch (seed++ % 6) {
        case 0:
          fs::remove(object);
          break;
        case 1:
          fs::resize_file(object, 0);
          break;
        case 2:
          fs::resize_file(object, size / 2);
          break;
        case 3:
          write_zeros(object, 0);
          break;
        case 4:
          write_zeros(object, size / 2);
          break;
        default:
          break;
      }
    }
  ::_exit(1);
}

/// What was promised: names of still points and the seeds of their disks.
class Promises {
 public:
  explicit Promises(fs::path path) : path_(std::move(path)) {}
  void add(const std::string& name, std::uint64_t seed) { write(name + " " + std::to_string(seed)); }
  void take_back(const std::string& name) { write(name + " 0"); }
  [[nodiscard]] std::map<std::string, std::uint64_t> kept() const {
    std::map<std::string, std::uint64_t> kept;
    std::ifstream file(path_);
    for (std::string name, seed; file >> name >> seed;) {
      kept[name] = std::stoull(seed);
      if (seed == "0") kept.erase(name);
    }
    return kept;
  }

 private:
  void write(const std::string& line) { std::ofstream(path_, std::ios::app) << line << std::endl; }
  fs::path path_;
};

/// STILLPOINT_TEST_ROUNDS: every step; without it every other one, or every STILLPOINT_TEST_STRIDEth.
std::uint64_t stride() {
  if (const char* steps = std::getenv("STILLPOINT_TEST_STRIDE")) return std::stoull(steps);
  return std::getenv("STILLPOINT_TEST_ROUNDS") != nullptr ? 1 : 2;
}

/// Half of it is the same for all seeds.
Bytes disk_of(std::uint64_t seed) {
  Bytes disk = text_bytes(4 * small_chunks, 1);
  const Bytes own = text_bytes(2 * small_chunks, seed);
  std::ranges::copy(own, disk.begin() + small_chunks);
  return disk;
}

/// Some rows differ: each night's is made by patches of an earlier one.
Bytes dump_of(std::uint64_t seed) {
  Bytes dump = text_bytes(3 * small_chunks, 9);
  const auto row = dump.begin() + static_cast<std::ptrdiff_t>(seed * 1000);
  dump.erase(row, row + 100);
  return dump;
}

void back_up(Repository& repository, Promises& promises, std::uint64_t seed) {
  static int serial = 0;
  const std::string time =
      "2026-11-" + std::to_string(10 + seed) + "T08:20:" + std::to_string(10 + serial++ % 50) + "Z";
  std::optional<StreamMap> base;
  if (const std::optional<Manifest> latest = repository.latest("web1")) base = latest->dumps.at(0).map;
  const StreamMap dump = write_stream(repository, dump_of(seed), nullptr, base);
  promises.add(commit(repository, "web1", write_whole(repository, disk_of(seed)), dump, time).name, seed);
}

/// A repository in which two nights have been backed up.
void two_nights(const std::string& url, Promises& promises) {
  Repository::create(url, {small_chunks});
  Repository repository(url, Repository::Mode::write);
  back_up(repository, promises, 1);
  back_up(repository, promises, 2);
}

void remove_oldest(Repository& repository, Promises& promises) {
  const std::string oldest = repository.list("web1").at(0).name;
  promises.take_back(oldest);
  repository.remove(oldest);
}

void work(const std::shared_ptr<Store>& store, Promises& promises) {
  Repository repository(store, Repository::Mode::write);
  back_up(repository, promises, 3);
  remove_oldest(repository, promises);
  static_cast<void>(repository.reclaim({}));
  back_up(repository, promises, 4);
  repository.rebuild_index();
}

/// Runs it in a process of its own, with the fault at that step; returns the steps that it took.
std::uint64_t run(const Scratch& scratch, Promises& promises, Kind kind, std::uint64_t at, std::uint64_t& hit,
                  std::set<std::uint64_t>* commits = nullptr) {
  const std::string url = scratch.repository();
  const fs::path counted = scratch.path() / "steps";
  fs::remove(counted);
  const pid_t child = ::fork();
  if (child == 0) {
    set_log_level(LogLevel::error);
    bool struck = false;
    const FaultyStore* faulty = nullptr;
    std::ofstream committed(scratch.path() / "commits");
    const auto fault = [&](FaultyStore::Step step, std::uint64_t number) {
      const bool is_commit = faulty != nullptr && !faulty->just_committed().empty();
      if (is_commit) committed << number << std::endl;
      if (number != at || step == FaultyStore::Step::look) return;
      if (kind == Kind::forget) lose_unsynced(url, number);
      if (kind == Kind::tear || kind == Kind::lose) {
        if (is_commit) lose_power(fs::path(url) / faulty->just_committed(), kind);
        return;
      }
      const bool read = step == FaultyStore::Step::read;
      if (kind == Kind::none || read != (kind == Kind::fail_read)) return;
      if (kind == Kind::die) ::_exit(1);
      struck = true;
      if (read) throw Corruption("injected");
      throw StorageError("injected");
    };
    const auto store = std::make_shared<FaultyStore>(open_store(url, StoreAccess::write), fault);
    faulty = store.get();
    try {
      work(store, promises);
    } catch (const Error&) {
      // As an operator would see it.
    }
    std::ofstream(counted) << store->steps() << ' ' << struck << std::endl;
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  std::uint64_t steps = 0;
  bool struck = WEXITSTATUS(status) != 0;
  std::ifstream(counted) >> steps >> struck;
  hit += struck ? 1 : 0;
  if (commits != nullptr) {
    std::ifstream file(scratch.path() / "commits");
    for (std::uint64_t number = 0; file >> number;)
      commits->insert(number);
  }
  return steps;
}

void check(const std::string& url, const Promises& promises) {
  Repository repository(url, Repository::Mode::write);
  VerifyOptions options;
  options.read_percent = 100;
  CHECK(repository.verify({}, options).damaged.empty());
  for (const auto& [name, seed] : promises.kept()) {
    CAPTURE(name);
    const Manifest manifest = repository.load(name);
    CHECK((read_whole(repository, manifest.disks.at(0).map) == disk_of(seed)));
    CHECK((read_stream(repository, manifest.dumps.at(0).map) == dump_of(seed)));
  }
}

void remove_all(const std::string& url, std::string_view prefix) {
  const std::unique_ptr<Store> store = open_store(url, StoreAccess::write);
  for (const ObjectInfo& object : store->list(prefix))
    store->remove(object.name);
}

/// Prune on a store where something else happens at one of its steps; how many it took.
std::uint64_t prune_beside(const std::string& url, std::uint64_t at, const std::function<void()>& other) {
  bool inside = false;
  const auto fault = [&](FaultyStore::Step, std::uint64_t number) {
    if (number != at || std::exchange(inside, true)) return;
    other();
  };
  const auto store = std::make_shared<FaultyStore>(open_store(url, StoreAccess::write), fault);
  // Prune leaves those of a running backup alone.
  store->make_packs_old();
  try {
    Repository repository(store, Repository::Mode::write);
    static_cast<void>(repository.reclaim({}));
  } catch (const Locked&) {
    // It saw that something had changed, and is to be run again.
  }
  return store->steps();
}

}  // namespace

TEST_CASE("whatever others commit or rebuild at any step of prune stays") {
  const Quiet quiet;
  for (const bool rebuild : {false, true}) {
    const bool indexed = !rebuild;
    std::uint64_t steps = 1000;
    for (std::uint64_t at = 0; at <= steps; at += stride()) {
      CAPTURE(rebuild);
      CAPTURE(indexed);
      CAPTURE(at);
      const Scratch scratch(Scratch::On::memory);
      Promises promises(scratch.path() / "promises");
      two_nights(scratch.repository(), promises);
      {
        Repository repository(scratch.repository(), Repository::Mode::write);
        remove_oldest(repository, promises);
      }
      if (!indexed) remove_all(scratch.repository(), "index");
      const std::uint64_t taken = prune_beside(scratch.repository(), at, [&] {
        Repository other(scratch.repository(), Repository::Mode::write);
        if (rebuild) other.rebuild_index();
        // Something new, and the content of the one that was deleted.
        back_up(other, promises, 6);
        back_up(other, promises, 1);
      });
      if (at == 0) steps = taken;
      check(scratch.repository(), promises);
      static_cast<void>(Repository(scratch.repository(), Repository::Mode::write).reclaim({}));
      check(scratch.repository(), promises);
    }
    CHECK(steps > 10);
  }
}

TEST_CASE("dying or failing at any step loses nothing that was acknowledged") {
  const Quiet quiet;
  std::uint64_t hit = 0;
  for (const Kind kind : {Kind::die, Kind::fail_change, Kind::fail_read}) {
    std::uint64_t steps = 1000;
    // Reads are many, and much alike.
    for (std::uint64_t at = 0; at <= steps; at += at > 0 && kind == Kind::fail_read ? 3 * stride() : stride()) {
      CAPTURE(static_cast<int>(kind));
      CAPTURE(at);
      const Scratch scratch(Scratch::On::memory);
      Promises promises(scratch.path() / "promises");
      two_nights(scratch.repository(), promises);
      const std::uint64_t taken = run(scratch, promises, at == 0 ? Kind::none : kind, at, hit);
      if (at == 0) {
        steps = taken;  // without a fault
        CHECK(promises.kept().size() == 3);
      }
      check(scratch.repository(), promises);
      // The next night.
      {
        Repository repository(scratch.repository(), Repository::Mode::write);
        back_up(repository, promises, 5);
        const ReclaimResult result = repository.reclaim({});
        CHECK(result.packs_waiting == 0);
        CHECK(result.damaged.empty());
      }
      check(scratch.repository(), promises);
      CHECK(open_store(scratch.repository(), StoreAccess::read)->list("doomed").empty());
    }
  }
  MESSAGE(hit << " faults injected");
  CHECK(hit > 100 / stride());
}

TEST_CASE("losing or tearing what was made last harms nothing that was acknowledged before") {
  if (!repositories_are_directories()) return;  // what a disk does that lies about its syncs
  const Quiet quiet;
  std::uint64_t hit = 0;
  std::set<std::uint64_t> commits;
  {
    const Scratch scratch(Scratch::On::memory);
    Promises promises(scratch.path() / "promises");
    two_nights(scratch.repository(), promises);
    static_cast<void>(run(scratch, promises, Kind::none, 0, hit, &commits));
  }
  CHECK(commits.size() >= 10);
  for (const Kind kind : {Kind::tear, Kind::lose, Kind::forget})
    for (const std::uint64_t at : commits) {
      CAPTURE(static_cast<int>(kind));
      CAPTURE(at);
      const Scratch scratch(Scratch::On::memory);
      Promises promises(scratch.path() / "promises");
      two_nights(scratch.repository(), promises);
      static_cast<void>(run(scratch, promises, kind, at, hit));
      const auto kept = promises.kept();
      const auto whole = [&] {
        Repository repository(scratch.repository(), Repository::Mode::write);
        VerifyOptions options;
        options.read_percent = 100;
        // The one that nobody was told of may be in ruins, and is named then.
        for (const DamagedStillPoint& damaged : repository.verify({}, options).damaged) {
          CAPTURE(damaged.name);
          CHECK(!kept.contains(damaged.name));
          repository.remove(damaged.name);
        }
      };
      whole();
      check(scratch.repository(), promises);
      {
        Repository repository(scratch.repository(), Repository::Mode::write);
        back_up(repository, promises, 5);
        // A torn lease is somebody's for a while: this is after it.
        for (const fs::path& lease : files_below(fs::path(scratch.repository()) / "locks"))
          fs::last_write_time(lease, fs::last_write_time(lease) - std::chrono::hours(1));
        static_cast<void>(repository.reclaim({}));
      }
      check(scratch.repository(), promises);
    }
  MESSAGE(hit << " faults injected");
  CHECK(hit == 3 * commits.size());
}
