// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/tree-entry.hh"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace stillpoint {

/// What went into an archive.
struct TarCounts {
  std::uint64_t entries = 0;
  std::uint64_t bytes = 0;  ///< of regular files, apparent
  std::vector<std::string> warnings;
};

/// Writes a walk as a tar archive in the pax format: owners and modes, times in nanoseconds, extended attributes and
/// ACLs as GNU tar and bsdtar read them, hard links, holes, devices. A stream: memory is spent on hard links alone.
class TarWriter : public TreeSink {
 public:
  using Output = std::function<void(std::span<const std::byte>)>;

  /// `start`: the path that the walk begins at, which the archive calls `name`; `disk` is where contents lie. All
  /// outlive it, and what the output throws passes through; it is also called with nothing, where nothing is to write.
  TarWriter(std::string start, std::string name, BlockReader& disk, Output output);
  TarWriter(const TarWriter&) = delete;
  TarWriter& operator=(const TarWriter&) = delete;
  ~TarWriter() override;

  /// Throws CaptureError, Corruption.
  void entry(const TreeEntry& entry) override;
  /// Ends the archive.
  [[nodiscard]] TarCounts finish();

 private:
  class Archive;
  [[nodiscard]] std::string name_of(const std::string& path) const;

  std::string start_;
  std::string name_;
  BlockReader& disk_;
  std::unique_ptr<Archive> archive_;
  TarCounts counts_;
};

}  // namespace stillpoint
