// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/log.hh"
#include "host/repository/repository.hh"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint::test {

using Bytes = std::vector<std::byte>;

/// A directory of its own, removed in the end, and a place for a repository: a directory in it, or a new namespace of
/// the pool that STILLPOINT_TEST_STORE names (rados://POOL?...), which stays.
class Scratch {
 public:
  enum class On {
    disk,
    memory,  ///< where there is such a file system: for hundreds of repositories, whose syncs prove nothing
  };
  Scratch();
  explicit Scratch(On on);
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::string repository() const;

 private:
  std::filesystem::path path_;
};

/// The same bytes for the same seed; they do not compress.
[[nodiscard]] Bytes random_bytes(std::size_t length, std::uint64_t seed);
/// Lines that compress.
[[nodiscard]] Bytes text_bytes(std::size_t length, std::uint64_t seed);

/// Writes all of `disk`, zeros as zeros.
[[nodiscard]] DiskMap write_whole(Repository& repository, std::span<const std::byte> disk,
                                  StoredCounts* counts = nullptr);
/// Writes only the named chunks on top of the base.
[[nodiscard]] DiskMap write_chunks(Repository& repository, std::span<const std::byte> disk, const DiskMap& base,
                                   const std::vector<std::uint64_t>& numbers, StoredCounts* counts = nullptr);
[[nodiscard]] Bytes read_whole(Repository& repository, const DiskMap& map);

[[nodiscard]] StreamMap write_stream(Repository& repository, std::span<const std::byte> bytes,
                                     StoredCounts* counts = nullptr,
                                     const std::optional<StreamMap>& base = std::nullopt);
[[nodiscard]] Bytes read_stream(Repository& repository, const StreamMap& map);

/// A manifest with one disk, and a dump when `dump` is given; named and committed.
Manifest commit(Repository& repository, std::string_view domain, const DiskMap& disk,
                const std::optional<StreamMap>& dump = std::nullopt, std::string_view time = "2026-11-22T08:20:11Z");

/// That what the maps tell of their differences is enough to make `to` of `from`, and that a copy is told from what it
/// is a copy of.
void check_differences(Repository& repository, const DiskMap& from, const Bytes& from_bytes, const DiskMap& to,
                       const Bytes& to_bytes);

/// Whether verify() finds nothing wrong with all that is there, every byte read.
[[nodiscard]] bool is_whole(Repository& repository);

/// Whether a test's repository is a directory's files.
[[nodiscard]] bool repositories_are_directories();

/// As if they had been written yesterday: prune leaves those of a running backup alone.
void make_packs_old(const std::filesystem::path& repository);

/// All objects of the repository by path below it.
[[nodiscard]] std::vector<std::filesystem::path> files_below(const std::filesystem::path& directory);
[[nodiscard]] std::filesystem::path only_file(const std::filesystem::path& directory);
void flip(const std::filesystem::path& path, std::uint64_t offset, std::byte mask);
/// From there to its end, as a file that was not synced may be when the power has failed.
void write_zeros(const std::filesystem::path& path, std::uint64_t offset);

inline constexpr std::uint32_t small_chunks = 64 << 10;

/// A warning for each damaged object is right, and too much for a test's output.
class Quiet {
 public:
  Quiet() { set_log_level(LogLevel::error); }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
  ~Quiet() { set_log_level(LogLevel::info); }
};

/// A repository with one still point of known content.
struct Sample {
  explicit Sample(std::size_t disk_bytes = 5 * small_chunks + 100, std::size_t dump_bytes = 200000);

  /// True when the still point reads as it was; false when Corruption said that it does not. Anything else fails.
  [[nodiscard]] bool reads() const;
  [[nodiscard]] std::filesystem::path root() const { return scratch.repository(); }

  Scratch scratch;
  Bytes disk;
  Bytes dump;
  Manifest manifest;
};

}  // namespace stillpoint::test
