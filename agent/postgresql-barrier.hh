// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "agent/postgresql-database.hh"
#include "common/clock.hh"

#include <chrono>
#include <span>
#include <string>

/// Holding the writers of all databases of one cluster.
namespace stillpoint::postgresql {

struct BarrierOptions {
  bool hold_writers = true;
  /// The cluster recovers for ever: it has no writers to hold, and no lock would be granted.
  bool standby = false;
  /// The shortest time after which an application's own deadlock check may strike it: attempts stay below.
  std::chrono::milliseconds deadlock_timeout{1000};
};

/// Does what the barrier will do, with locks that hold nobody up, and lets go: so that caches, plans and pages are
/// there while writers wait. What fails here does not matter; it will say so in the barrier.
void rehearse_barrier(std::span<Database> databases, const std::string& position, const Deadline& deadline);

/// Locks the tables of all databases, until `deadline` at most. Everything is rolled back between attempts, in all
/// databases, and each deadlock teaches their order. A database whose tables cannot be had in a few attempts is given
/// up (its report says `skewed` and who was in the way), and the others are held without it. On return every usable
/// database has a transaction open in each of its sessions, the holder's with its tables pinned.
void take_barrier(std::span<Database> databases, const BarrierOptions& options, const Deadline& deadline);

/// Ends the lockers' transactions, after asking what may have slipped through (see Database::in_flight).
void release_barrier(std::span<Database> databases, const Deadline& deadline) noexcept;

}  // namespace stillpoint::postgresql
