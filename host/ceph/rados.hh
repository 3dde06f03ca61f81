// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace stillpoint {

/// A change of the entries (keys and values) that an object carries: all of it, or nothing.
struct RadosChange {
  enum class Object {
    any,     ///< made when it is not there
    exists,  ///< must be there
    is_new,  ///< must not be there
  };
  Object object = Object::any;
  /// What must be so: an entry has that value, or (nothing) there is no such entry. No value may be empty.
  std::vector<std::pair<std::string, std::optional<std::string>>> when{};
  std::map<std::string, std::string> set{};
  std::vector<std::string> remove{};
};

enum class RadosOutcome {
  done,
  refused,  ///< a condition does not hold
  absent,   ///< there is no such object
};

/// Some of an object's entries, in order.
struct RadosPage {
  std::vector<std::pair<std::string, std::string>> entries{};
  bool more = false;
};

/// Requests on their way: start some, then take what is answered, in any order. For one thread. Going out of scope
/// waits for all of them, bounded by the cluster's limit.
class RadosQueue {
 public:
  struct Answer {
    std::uint64_t tag = 0;
    int error = 0;          ///< an errno; 0: done. A page of an object that is not there is ENOENT
    std::size_t bytes = 0;  ///< read: fewer than asked for where the object ends
    RadosPage page{};
  };

  virtual ~RadosQueue() = default;

  /// The object is that afterwards, or what it was. The bytes may go when this returns.
  virtual void start_write(const std::string& object, std::span<const std::byte> bytes, std::uint64_t tag) = 0;
  /// The buffer stays where it is until the answer was taken.
  virtual void start_read(const std::string& object, std::uint64_t offset, std::span<std::byte> buffer,
                          std::uint64_t tag) = 0;
  virtual void start_remove(const std::string& object, std::uint64_t tag) = 0;
  /// Entries whose keys begin with `prefix` and come after `after` (empty: from the first on).
  virtual void start_page(const std::string& object, const std::string& prefix, const std::string& after,
                          std::uint64_t tag) = 0;
  /// Waits for an answer; there must be something in flight.
  [[nodiscard]] virtual Answer next() = 0;
  [[nodiscard]] virtual std::size_t in_flight() const = 0;
};

/// A pool's, or a namespace's, objects. Where the pool or a quota is full, writes fail at once, and what frees space
/// works. Safe to use from several threads. Throws CephError.
class RadosPool {
 public:
  virtual ~RadosPool() = default;

  [[nodiscard]] virtual std::int64_t id() const = 0;
  /// Its objects carry no entries.
  [[nodiscard]] virtual bool is_erasure_coded() = 0;
  /// Whether it has no object.
  [[nodiscard]] virtual bool is_empty() = 0;

  [[nodiscard]] virtual RadosOutcome change(const std::string& object, const RadosChange& change) = 0;
  /// Those of these entries that there are; nothing when there is no such object.
  [[nodiscard]] virtual std::optional<std::map<std::string, std::string>> entries(
      const std::string& object, const std::vector<std::string>& keys) = 0;

  [[nodiscard]] virtual std::unique_ptr<RadosQueue> queue() = 0;

  /// A lock on the object, which is made when it is not there, for whoever names that cookie; ends after `duration` by
  /// the OSD's clock. False when somebody else has it.
  [[nodiscard]] virtual bool lock(const std::string& object, const std::string& cookie,
                                  std::chrono::seconds duration) = 0;
  /// Makes it last for `duration` from now. False when it is not held any more.
  [[nodiscard]] virtual bool renew(const std::string& object, const std::string& cookie,
                                   std::chrono::seconds duration) = 0;
  virtual void unlock(const std::string& object, const std::string& cookie) = 0;
};

}  // namespace stillpoint
