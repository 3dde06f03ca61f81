// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/repository/store.hh"

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace stillpoint {

/// A note in the store that somebody works there: prune deletes nothing that he may rely on. It is renewed while it
/// lives. Whoever does not renew it in time can be *fenced*: his note is removed, and with it what he has not finished,
/// so that he cannot commit any more. So a wrong clock costs a backup, and no data; a prune checks its own lease too.
class Lease {
 public:
  enum class Kind {
    shared,     ///< reads, or writes
    exclusive,  ///< prunes
  };

  /// Takes it, and renews it as often. Throws StorageError.
  Lease(std::shared_ptr<Store> store, Kind kind, std::chrono::milliseconds renewal = std::chrono::minutes(2));
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();

  /// is_id.
  [[nodiscard]] const std::string& id() const noexcept { return id_; }

  /// Throws Locked when it was fenced.
  void check();

 private:
  void put(unsigned number);
  void renew();
  void renew_once();
  void remove_all_but(std::optional<unsigned> kept);

  std::shared_ptr<Store> store_;
  Kind kind_;
  std::chrono::milliseconds renewal_;
  std::string id_;
  std::string started_;
  std::mutex mutex_;
  std::condition_variable wake_;
  unsigned number_ = 0;            ///< of the object that stands for it now
  unsigned last_ = 0;              ///< the last that was tried: what failed may have been done all the same
  std::set<unsigned> written_{0};  ///< all that may be there
  bool ending_ = false;
  bool fenced_ = false;
  std::jthread renewer_;
};

/// How much the clocks of the store and of those who work in it may differ: what is so much older than the oldest lease
/// is nobody's who still works.
inline constexpr std::chrono::hours clock_margin{1};

/// Somebody's lease, as it lies in the store.
struct HeldLease {
  std::string id;
  Lease::Kind kind = Lease::Kind::shared;
  std::string holder;  ///< "host, process 4711, since 2026-11-22T08:20:11Z"
  std::vector<std::string> objects;
  WallTime started{};    ///< by its holder's clock
  bool expired = false;  ///< long ago, by our clock, or its process is dead
};

/// All of them; a damaged one counts as held.
[[nodiscard]] std::vector<HeldLease> held_leases(Store& store);

/// The ids of those that read or write.
[[nodiscard]] std::set<std::string> shared_leases(Store& store);

/// Removes an expired lease and what its holder has not finished. From then on he cannot commit.
void fence(Store& store, const HeldLease& lease);

}  // namespace stillpoint
