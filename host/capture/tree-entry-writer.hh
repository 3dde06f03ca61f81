// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/block.hh"
#include "common/tree-entry.hh"
#include "host/capture/tree-content.hh"
#include "host/capture/tree-directories.hh"
#include "host/capture/tree-metadata.hh"

#include <atomic>
#include <cstdint>
#include <string>

namespace stillpoint {

/// Puts what is no directory into the directories of a tree: links to the previous tree, or new. One thread.
class EntryWriter {
 public:
  EntryWriter(BlockReader& disk, MetadataKeeper& keeper, std::atomic<std::uint64_t>& asked)
      : keeper_(keeper), content_(disk, keeper, asked) {}

  /// The name under which `entry` is in the directory then; empty when the target has no such objects and it was left
  /// out. Content may come later. Throws StorageError, Corruption, what reading the disk throws.
  std::string write(const FilledDirectory& directory, const std::string& name, const TreeEntry& entry);
  /// Writes the content that is left.
  void finish() { content_.flush(); }

  /// Of which the content was written; the others were linked.
  [[nodiscard]] std::uint64_t files_written() const noexcept { return files_written_; }
  [[nodiscard]] std::uint64_t bytes_written() const noexcept { return content_.bytes_written(); }

 private:
  enum class Made { yes, left_out, name_taken };
  Made make(const FilledDirectory& directory, const std::string& name, const TreeEntry& entry);
  Made link_to_previous(const FilledDirectory& directory, const std::string& name, const TreeEntry& entry);
  Made write_file(int directory, const std::string& name, const TreeEntry& entry);
  Made write_special(int directory, const std::string& name, const TreeEntry& entry);

  MetadataKeeper& keeper_;
  ContentQueue content_;
  std::uint64_t files_written_ = 0;
};

}  // namespace stillpoint
