// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "host/capture/tree-entry-writer.hh"

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace stillpoint {

/// Threads that write a tree's entries, of any directory in any order.
class TreeCrew {
 public:
  struct Work {
    std::shared_ptr<FilledDirectory> directory;  ///< held for it
    std::string name;
    TreeEntry entry;
  };

  /// One thread for each writer; none of them for one core.
  TreeCrew(MetadataKeeper& keeper, std::vector<std::unique_ptr<EntryWriter>> writers);
  TreeCrew(const TreeCrew&) = delete;
  TreeCrew& operator=(const TreeCrew&) = delete;
  /// Without finish() what has not begun is left undone.
  ~TreeCrew();

  /// Waits while there is much to do already. Throws what a thread has met.
  void add(Work work);
  /// Waits until nothing is left to do but content. Throws what a thread has met.
  void wait();
  /// Has all content written, and ends the threads. Throws what one has met.
  void finish();

  [[nodiscard]] std::uint64_t files_written() const noexcept;
  [[nodiscard]] std::uint64_t bytes_written() const noexcept;

 private:
  using Batch = std::vector<Work>;
  void post();
  void serve(EntryWriter& writer);
  void run(EntryWriter& writer, Batch& batch);
  void fail() noexcept;
  void join() noexcept;

  MetadataKeeper& keeper_;
  std::vector<std::unique_ptr<EntryWriter>> writers_;
  Batch next_;
  std::size_t directories_ = 0;  ///< of next_
  std::uint64_t bytes_ = 0;      ///< of next_

  std::mutex mutex_;  ///< of what follows
  std::condition_variable work_;
  std::condition_variable room_;
  std::deque<Batch> queue_;
  std::size_t busy_ = 0;
  bool ending_ = false;
  bool abandoned_ = false;
  std::exception_ptr failure_;
  std::vector<std::jthread> threads_;
};

}  // namespace stillpoint
