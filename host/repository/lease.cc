// SPDX-License-Identifier: LGPL-2.1-or-later
#include "host/repository/lease.hh"

#include "common/clock.hh"
#include "common/errors.hh"
#include "common/file.hh"
#include "common/log.hh"
#include "host/repository/document.hh"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <map>
#include <set>

namespace stillpoint {

namespace {

constexpr std::chrono::minutes duration{10};
/// Clocks of hosts may differ by less than this; more than that costs a backup.
constexpr std::chrono::minutes patience{10};
constexpr std::uint64_t longest = 4096;
constexpr std::chrono::milliseconds look_interval{20};

std::string_view word(Lease::Kind kind) {
  return kind == Lease::Kind::shared ? "shared" : "exclusive";
}

std::string object_of(Lease::Kind kind, std::string_view id, unsigned number) {
  return fmt::format("locks/{}-{}.{}", word(kind), id, number);
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

/// Where a process number means the same process: this boot of this machine, this PID namespace.
std::string process_space() {
  std::error_code unknown;
  std::string boot = read_text("/proc/sys/kernel/random/boot_id", 64);
  boot.erase(std::min(boot.find('\n'), boot.size()));
  return fmt::format("{} {}", boot, std::filesystem::read_symlink("/proc/self/ns/pid", unknown).native());
}

bool is_dead(const Json& lease) {
  const std::string space = json_string_or(lease, "process_space", "", 256);
  return space == process_space() && ::kill(static_cast<pid_t>(json_uint(lease, "process", INT32_MAX)), 0) != 0 &&
         errno == ESRCH;
}

/// By name, when each was written. Twice: a listing may miss one that is renewed meanwhile, but not two.
std::map<std::string, WallTime> listed_leases(Store& store) {
  std::map<std::string, WallTime> names;
  for (int look = 0; look < 2; ++look)
    for (const ObjectInfo& object : store.list("locks"))
      names.emplace(object.name, object.modified);
  return names;
}

}  // namespace

Lease::Lease(std::shared_ptr<Store> store, Kind kind, std::chrono::milliseconds renewal)
    : store_(std::move(store)), kind_(kind), renewal_(renewal), id_(random_id()), started_(format_time(wall_now())) {
  put(number_);
  renewer_ = std::jthread([this] { renew(); });
}

Lease::~Lease() {
  {
    const std::scoped_lock lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  renewer_.join();
  try {
    remove_all_but(std::nullopt);
  } catch (const std::exception& error) {
    log_debug("a lease is left to expire: {}", error.what());
  }
}

void Lease::put(unsigned number) {
  const Json json{{"format", 1},           {"host", host_name()},
                  {"process", ::getpid()}, {"process_space", process_space()},
                  {"started", started_},   {"expires", format_time(wall_now() + duration)}};
  store_->put(object_of(kind_, id_, number), as_bytes(seal_document("lease", json)));
}

void Lease::renew() {
  std::unique_lock lock(mutex_);
  while (!fenced_ && !wake_.wait_for(lock, renewal_, [this] { return ending_; })) {
    try {
      renew_once();
    } catch (const std::exception& error) {
      log_warning("a lease could not be renewed: {}", error.what());
    }
  }
}

void Lease::renew_once() {
  const std::string now = object_of(kind_, id_, number_);
  // One that was fenced is not taken again: what it stood for is not true any more.
  fenced_ = !store_->exists(now);
  if (fenced_) return;
  written_.insert(++last_);
  put(last_);
  // It may have been fenced while this was written.
  fenced_ = !store_->exists(now);
  if (!fenced_) number_ = last_;
  remove_all_but(fenced_ ? std::nullopt : std::optional(number_));
}

void Lease::remove_all_but(std::optional<unsigned> kept) {
  for (auto number = written_.begin(); number != written_.end();) {
    if (*number == kept) {
      ++number;
      continue;
    }
    store_->remove(object_of(kind_, id_, *number));
    number = written_.erase(number);
  }
}

void Lease::check() {
  const std::scoped_lock lock(mutex_);
  fenced_ = fenced_ || !store_->exists(object_of(kind_, id_, number_));
  if (fenced_)
    throw Locked("this program stood still for so long that its lease on the repository was taken away",
                 "nothing is lost: run it again");
}

namespace {

/// Nothing when the name is no lease's.
std::optional<HeldLease> lease_of(std::string_view object) {
  std::string_view name = object.substr(sizeof "locks");
  HeldLease lease;
  if (name.starts_with("exclusive-"))
    lease.kind = Lease::Kind::exclusive;
  else if (!name.starts_with("shared-"))
    return std::nullopt;
  name.remove_prefix(name.find('-') + 1);
  lease.id = name.substr(0, name.find('.'));
  lease.objects.emplace_back(object);
  return lease;
}

/// False when an object is gone since it was listed: its holder has ended, or renewed it under another name.
bool look_at_leases(Store& store, std::map<std::string, HeldLease>& leases) {
  for (const auto& [object, modified] : listed_leases(store)) {
    std::optional<HeldLease> lease = lease_of(object);
    if (!lease) continue;
    try {
      const Json json = open_document("lease", store.get(object, longest), object);
      lease->holder = fmt::format("{}, process {}, since {}", json_string(json, "host", 256),
                                  json_uint(json, "process"), json_string(json, "started", 64));
      lease->started = parse_time(json_string(json, "started", 64));
      lease->expired = parse_time(json_string(json, "expires", 64)) + patience < wall_now() || is_dead(json);
    } catch (const NotFound&) {
      return false;
    } catch (const Error& e) {
      // Damaged: what the store knows of it has to do, and that is not when its holder began.
      lease->holder = e.what();
      lease->started = WallTime{};
      lease->expired = modified + duration + patience < wall_now();
    }
    const auto [it, inserted] = leases.try_emplace(lease->id, *lease);
    if (inserted) continue;
    it->second.objects.push_back(object);
    it->second.expired = it->second.expired && lease->expired;
  }
  return true;
}

}  // namespace

std::vector<HeldLease> held_leases(Store& store) {
  std::map<std::string, HeldLease> leases;
  while (!look_at_leases(store, leases)) {
    leases.clear();
    std::this_thread::sleep_for(look_interval);
  }
  std::vector<HeldLease> all;
  for (auto& [id, lease] : leases)
    all.push_back(std::move(lease));
  return all;
}

std::set<std::string> shared_leases(Store& store) {
  std::set<std::string> ids;
  for (const HeldLease& lease : held_leases(store))
    if (lease.kind == Lease::Kind::shared) ids.insert(lease.id);
  return ids;
}

void fence(Store& store, const HeldLease& lease) {
  log_warning("the lease of {} has expired: what it had not finished is dropped", lease.holder);
  // Until nothing of it is left: its holder may renew it at this very moment.
  for (std::vector<std::string> objects = lease.objects; !objects.empty();) {
    for (const std::string& object : objects)
      store.remove(object);
    // Others, that is, who look at a cache of what is there.
    std::this_thread::sleep_for(store.visibility());
    store.drop_unfinished(lease.id);
    objects.clear();
    for (const auto& [object, modified] : listed_leases(store))
      if (const auto again = lease_of(object); again && again->id == lease.id) objects.push_back(object);
  }
}

}  // namespace stillpoint
