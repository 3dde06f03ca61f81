// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/tree-entry.hh"
#include "host/capture/file-system-reader.hh"
#include "host/repository/crew.hh"
#include "host/repository/repository.hh"

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string_view>
#include <vector>

namespace stillpoint {

/// A disk of the repository that is opened, or a volume on some: its blocks, and its file systems through sandboxed
/// workers. May be used by several threads.
class GuestDisk {
 public:
  /// The crew outlives it. Once `stop` is requested, what looks at file systems ends with Interrupted.
  GuestDisk(Repository& repository, const DiskMap& map, Crew& crew, std::stop_token stop);
  /// What lies on others, each of which may be used by several threads: twice the same, the second for structures.
  GuestDisk(std::unique_ptr<BlockReader> blocks, std::unique_ptr<BlockReader> structures, std::stop_token stop);
  GuestDisk(const GuestDisk&) = delete;
  GuestDisk& operator=(const GuestDisk&) = delete;
  ~GuestDisk();

  [[nodiscard]] BlockReader& blocks() noexcept { return *blocks_; }
  /// The same with a cache of its own, for what is read here and there.
  [[nodiscard]] BlockReader& structures() noexcept { return *structures_; }

  /// As FileSystemReader has them; `file_system` is the place in that list.
  [[nodiscard]] std::vector<FileSystem> file_systems();
  void list(std::size_t file_system, std::string_view path, TreeSink& sink);
  [[nodiscard]] std::optional<TreeEntry> look(std::size_t file_system, std::string_view path);

 private:
  struct Reader;
  class Stoppable;
  class Loan;

  std::unique_ptr<BlockReader> blocks_;
  std::unique_ptr<BlockReader> structures_;  ///< what the workers read
  std::stop_token stop_;
  std::mutex mutex_;
  std::condition_variable given_back_;
  std::vector<std::unique_ptr<Reader>> idle_;
  std::size_t readers_ = 0;  ///< idle and lent
};

}  // namespace stillpoint
