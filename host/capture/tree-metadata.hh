// SPDX-License-Identifier: LGPL-2.1-or-later
#pragma once

#include "common/tree-entry.hh"

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint {

/// What becomes of owners and devices where the target takes none.
enum class TreeOwners {
  dropped,        ///< a plain copy without them, with a warning
  as_attributes,  ///< attributes keep them as rsync's --fake-super does
};

/// What of an object is not its content.
struct Metadata {
  std::string path;  ///< for messages
  EntryType type = EntryType::file;
  std::uint32_t mode = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t device_major = 0;
  std::uint32_t device_minor = 0;
  std::int64_t mtime_ns = 0;
  std::vector<std::pair<std::string, std::string>> xattrs;

  explicit Metadata(const TreeEntry& entry)
      : path(entry.path),
        type(entry.type),
        mode(entry.mode),
        uid(entry.uid),
        gid(entry.gid),
        device_major(entry.device_major),
        device_minor(entry.device_minor),
        mtime_ns(entry.mtime_ns),
        xattrs(entry.xattrs) {}
};

/// Sets metadata on what a tree consists of, and collects what the target refuses. For several threads at once.
class MetadataKeeper {
 public:
  /// `directory`: an empty one on the target, where it is tried what that can keep.
  MetadataKeeper(int directory, TreeOwners owners);

  /// Of an open file or directory. Throws StorageError.
  void apply(int fd, const Metadata& metadata);
  /// Of what cannot be opened: a link, a device, a fifo. Throws StorageError.
  void apply(int directory, const std::string& name, const TreeEntry& entry);

  /// Whether `name` of an earlier tree is what the entry says, content taken for the same when size and time are.
  [[nodiscard]] bool is_same(int directory, const std::string& name, const TreeEntry& entry) const;

  /// Whether links, devices, fifos and sockets are files here whose attribute says what they stand for, as rsync's
  /// --fake-super has them.
  [[nodiscard]] bool fake_super() const noexcept { return fake_super_; }
  /// Whether names that differ in case only are the same to the target.
  [[nodiscard]] bool ignores_case() const noexcept { return ignores_case_; }

  /// Keeps the first warning of a kind, and a hundred in all.
  void warn(std::string_view kind, std::string text);
  /// That `path` has the name `made` because the target takes its own for another's.
  void warn_of_case(const std::string& path, const std::string& made);
  [[nodiscard]] std::vector<std::string> take_warnings() { return std::move(warnings_); }

 private:
  using Attributes = std::vector<std::pair<std::string, std::string>>;
  [[nodiscard]] std::uint32_t mode_to_set(std::uint32_t mode, bool owned) const noexcept;
  void apply_fake_super(int fd, const Metadata& metadata);
  void set_attribute(int fd, const std::string& path, const std::string& name, const std::string& value);
  [[nodiscard]] bool is_same_fake(int directory, const std::string& name, const TreeEntry& entry,
                                  const struct stat& status) const;

  bool owns_ = false;
  bool fake_super_ = false;
  bool ignores_case_ = false;
  std::mutex mutex_;  ///< of what follows
  std::vector<std::string> warnings_;
  std::vector<std::string> kinds_;  ///< warned of once
};

/// The S_IF... bits of a type.
[[nodiscard]] unsigned type_bits(EntryType type) noexcept;

}  // namespace stillpoint
