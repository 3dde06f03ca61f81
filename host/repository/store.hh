// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/clock.hh"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

struct ObjectInfo {
  std::string name;
  std::uint64_t size = 0;  ///< bytes
  WallTime modified{};     ///< by the store's clock; by its writer's where the store has none
};

/// An object on its way into the store: nobody sees it before commit(); going out of scope without it leaves nothing.
class ObjectWriter {
 public:
  virtual ~ObjectWriter() = default;
  /// Throws StorageError.
  virtual void append(std::span<const std::byte> bytes) = 0;
  /// Makes it durable under its name; a table of the index, or a lease, may be later. Throws StorageError, also when
  /// the name is taken.
  virtual void commit() = 0;
};

/// An object open for reading by ranges; may be used by several threads.
class ObjectReader {
 public:
  virtual ~ObjectReader() = default;
  [[nodiscard]] virtual std::uint64_t size() const = 0;  ///< bytes
  /// Fills the buffer. Throws Corruption when the object ends before or cannot be read there.
  virtual void read(std::uint64_t offset, std::span<std::byte> buffer) = 0;
};

/// A whole object as memory: mapped where the store is local, fetched otherwise.
class ObjectView {
 public:
  virtual ~ObjectView() = default;
  [[nodiscard]] virtual std::span<const std::byte> bytes() const = 0;
};

[[nodiscard]] std::unique_ptr<ObjectView> memory_view(std::vector<std::byte> bytes);

/// Kept from others for as long as it lives, whoever dies.
class StoreLock {
 public:
  virtual ~StoreLock() = default;
};

/// Where objects live: put, get a range, list, delete, exists. Names are flat ("packs/ab/abcd"), objects are written
/// once and never change. All operations may be called from several threads.
class Store {
 public:
  virtual ~Store() = default;

  /// Where it is, for messages.
  [[nodiscard]] virtual const std::string& url() const = 0;
  /// The directory, when it is one.
  [[nodiscard]] virtual std::optional<std::filesystem::path> directory() const { return std::nullopt; }

  [[nodiscard]] virtual std::unique_ptr<ObjectWriter> writer(std::string name) = 0;
  void put(std::string name, std::span<const std::byte> bytes);

  /// Throws NotFound.
  [[nodiscard]] virtual std::unique_ptr<ObjectReader> reader(const std::string& name) = 0;
  /// Throws NotFound.
  [[nodiscard]] virtual std::unique_ptr<ObjectView> view(const std::string& name) = 0;
  /// The whole object. Throws NotFound, Corruption when it is longer than `limit` bytes.
  [[nodiscard]] std::string get(const std::string& name, std::uint64_t limit);

  /// Everything below "prefix/", in no order; empty when there is nothing.
  [[nodiscard]] virtual std::vector<ObjectInfo> list(std::string_view prefix) = 0;
  [[nodiscard]] virtual bool exists(const std::string& name) = 0;
  /// Whether we may delete what others have written.
  [[nodiscard]] virtual bool may_remove() const { return true; }
  /// Deletes it; no error when it is gone already.
  virtual void remove(const std::string& name) = 0;

  /// How long after it was written an object may not be seen by others. May grow.
  [[nodiscard]] virtual std::chrono::seconds visibility() const { return std::chrono::seconds(0); }

  /// From now on, what this store has not finished writing is known by that lease (is_id), for drop_unfinished().
  virtual void work_under(std::string_view lease) = 0;
  /// Makes everything that was begun under the lease fail: nothing of it appears any more. Throws StorageError.
  virtual void drop_unfinished(std::string_view lease) = 0;

  /// A lock of that name, which is no object; null when somebody has it. Throws StorageError.
  [[nodiscard]] virtual std::unique_ptr<StoreLock> try_lock(const std::string& name) = 0;
};

/// There once a network file system has brought somebody to a directory's store who writes.
inline constexpr const char* network_object = "network";
/// For how long such a file system may show what was, by default.
inline constexpr std::chrono::seconds network_visibility{60};

enum class StoreAccess {
  create,  ///< a place that does not exist yet or is empty
  read,
  write,
};

/// Opens the store that the url names: a path, file://path, ssh://[user@]host[:port]/path, or rados://pool[/namespace].
/// Throws ConfigError, Unreachable.
[[nodiscard]] std::unique_ptr<Store> open_store(std::string_view url, StoreAccess access);

}  // namespace stillpoint
