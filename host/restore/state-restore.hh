// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"
#include "host/guest/domain-xml.hh"
#include "host/repository/manifest.hh"
#include "host/repository/repository.hh"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace stillpoint {

/// A file of a domain's state, out of the repository.
struct LoadedState {
  StateRecord record;
  std::string content;
};

/// All that the still point has of it. Throws Corruption.
[[nodiscard]] std::vector<LoadedState> load_state(Repository& repository, const Manifest& manifest);

/// Where a domain's state goes; an empty path: nowhere.
struct StateTargets {
  std::filesystem::path nvram;              ///< a file
  std::filesystem::path tpm;                ///< a directory, made when it is not there
  std::optional<UserAndGroup> nvram_owner;  ///< when it replaces none
};

/// Writes a domain's state. What is there already is replaced by a file of the same owner and mode. What was written is
/// removed again, unless keep() was called.
class StateWriter {
 public:
  /// Writes nothing yet. Throws UsageError when something is there and may not be replaced.
  StateWriter(const std::vector<LoadedState>& state, StateTargets targets, bool overwrite);
  StateWriter(const StateWriter&) = delete;
  StateWriter& operator=(const StateWriter&) = delete;
  ~StateWriter();

  /// Writes all of it, beside what it replaces. Throws StorageError, UsageError.
  void prepare();
  /// Gives all of it its names; durable on return. Throws StorageError.
  void complete();
  /// Both.
  void write();
  void keep() noexcept { made_.clear(); }

  struct Written {
    StateRecord::Kind kind;
    std::filesystem::path path;
    std::uint64_t bytes;
  };
  /// What it writes.
  [[nodiscard]] std::vector<Written> files() const;

 private:
  [[nodiscard]] std::filesystem::path path_of(const LoadedState& state) const;
  void make_directory(const std::filesystem::path& directory, unsigned mode);
  void prepare_file(const LoadedState& state);

  struct Prepared {
    UniqueFd directory;
    std::string partial;
    std::filesystem::path path;
    bool replaces = false;
  };

  const std::vector<LoadedState>& state_;
  StateTargets targets_;
  bool overwrite_;
  std::vector<Prepared> prepared_;           ///< not yet complete
  std::vector<std::filesystem::path> made_;  ///< in this order
};

}  // namespace stillpoint
