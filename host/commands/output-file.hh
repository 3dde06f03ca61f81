// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/file.hh"

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace stillpoint {

/// A file that has its name only when it is whole: written beside it (mode 0600), then renamed. Leaving the scope
/// before commit() leaves nothing.
class OutputFile {
 public:
  /// Throws UsageError when the target exists and may not be replaced (only a regular file ever is), StorageError.
  OutputFile(std::filesystem::path target, bool overwrite);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  void write(std::span<const std::byte> bytes);
  /// Durable under its name. Throws StorageError, UsageError when the target has appeared in between.
  void commit();

 private:
  std::filesystem::path target_;
  bool overwrite_;
  std::string temporary_;
  UniqueFd fd_;
};

/// Throws UsageError unless `path` does not exist, or is a regular file and `overwrite`.
void check_output_path(const std::filesystem::path& path, bool overwrite);

/// Renames without replacing. Throws UsageError when `to` exists, StorageError.
void rename_new(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace stillpoint
